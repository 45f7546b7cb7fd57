"""The names under which coordinator and sites meet: message types, records, keys.

`server` and `client` never import each other; what one writes and the other reads is named here.

A training message carries the global model and the round's settings. Its reply carries the trained model, its weight
(the number of people it was trained on), and the evaluation of the model that came in, as sums over the site's own
validation people: so a plain round is one exchange. Under secure aggregation the reply holds none of these but one
vector under masks. In private training the reply carries no evaluation and no loss, which the noise does not cover, but
the privacy event that was executed. In an anchored run every message with a model carries the proofs that the model is
in the log, and every reply the site's cosignature of the log's checkpoint. A site that cannot take part replies with a
refusal, a sentence the coordinator can read.
"""

from __future__ import annotations

from typing import Final

PROTOCOL_VERSION: Final = 6
"""Raised whenever a message changes its meaning. Versions that differ refuse each other."""

IDENTIFY: Final = "query.identify"
"""Message type: who are you? Answered with the site's name."""

ADVERTISE: Final = "query.advertise"
SHARE: Final = "query.share"
ATTEST: Final = "query.attest"
UNMASK: Final = "query.unmask"
"""Message types of secure aggregation; each carries one message of `privacy.secure_aggregation` in SECURE."""

WITNESS: Final = "query.witness"
"""Message type: which checkpoint did you see last? With ANCHOR in it, and a model or none: verify this and cosign."""

ARRAYS: Final = "arrays"
CONFIG: Final = "config"
METRICS: Final = "metrics"
SITE: Final = "site"
SECURE: Final = "secure"
ANCHOR: Final = "anchor"

# CONFIG of a training or evaluation message.
VERSION_KEY: Final = "protocol-version"
ROUND_KEY: Final = "server-round"
ROUNDS_KEY: Final = "rounds"
SEED_KEY: Final = "seed"
HIDDEN_KEY: Final = "hidden"
EPOCHS_KEY: Final = "local-epochs"
BATCH_SIZE_KEY: Final = "batch-size"
LEARNING_RATE_KEY: Final = "learning-rate"
VALIDATION_SHARE_KEY: Final = "validation-share"
TEST_SHARE_KEY: Final = "test-share"

# CONFIG of a training message with differential privacy.
UNIT_KEY: Final = "privacy-unit"
RUN_KEY: Final = "run"
NOISE_KEY: Final = "noise-multiplier"
CLIP_KEY: Final = "max-grad-norm"
STEPS_KEY: Final = "local-steps"
SAMPLING_RATE_KEY: Final = "sampling-rate"
MOMENTUM_KEY: Final = "momentum"
SITES_KEY: Final = "sites"
TOTAL_PEOPLE_KEY: Final = "people-of-all-sites"  # of the last finished round; 0 before it
UPDATE_NORM_KEY: Final = "update-norm"  # with the unit "site"
SITE_WEIGHT_KEY: Final = "site-weight"  # with the unit "site": what every site's update weighs in a secure sum

# SITE of a reply.
NAME_KEY: Final = "name"
REFUSAL_KEY: Final = "refusal"
REFUSAL_KIND_KEY: Final = "refusal-kind"
EVENT_KEY: Final = "privacy-event"  # JSON of the `PrivacyEvent` that was executed

# SECURE of a message.
PAYLOAD_KEY: Final = "payload"
SLOT_KEY: Final = "slot"
BEGIN_KEY: Final = "begin"

# SECURE within the site itself, with the unit "site": its share of the noise.
STEPS_TO_UNIT_KEY: Final = "steps-to-unit"
SHARES_KEY: Final = "shares"

# ANCHOR of a message with a model. A proof is its hashes, one after the other.
CHECKPOINT_KEY: Final = "checkpoint"
CONSISTENCY_KEY: Final = "consistency-proof"  # from the checkpoint that the site saw last
MANIFEST_KEY: Final = "manifest"  # of the model; absent where it is not anchored yet
INDEX_KEY: Final = "index"
INCLUSION_KEY: Final = "inclusion-proof"
PUBLISHED_KEY: Final = "published"  # the newest checkpoint that a quorum cosigned; absent where there is none
PUBLISHED_CONSISTENCY_KEY: Final = "published-consistency-proof"

# ANCHOR of a reply.
SIZE_KEY: Final = "size"  # of the last checkpoint that the site saw
COSIGNED_KEY: Final = "cosigned"  # that checkpoint with the site's cosignature; absent before the first

# METRICS of a reply. Everything is a sum over people, so that sites add up.
PEOPLE_KEY: Final = "people"
WEIGHT_KEY: Final = "weight"  # alone, with the unit "site": alike at all sites, so that it tells nothing of any
TRAIN_LOSS_KEY: Final = "train-loss-sum"
HISTOGRAM_KEY: Final = "histogram"  # positives then negatives, flattened
NDCG_KEY: Final = "ndcg-sum"
HIT_KEY: Final = "hit-sum"
RANKED_KEY: Final = "ranked-people"
VALIDATION: Final = "validation-"
TEST: Final = "test-"
