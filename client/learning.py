"""What a site does with its own people when a message asks: train, or evaluate.

Apart from the app itself because PyTorch takes seconds to import, and most messages need none of it.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict

from client.private_learning import train_within_budget
from client.site import Site, load_site
from client.training import learning_rate_of_round, train_epochs
from common import messages as names
from common.errors import InputError
from common.evaluation_sums import EvaluationSums
from common.model import MatchingModel, from_array_record, load_parameters, parameters_of, predict, to_array_record
from common.pair_data import PairData


def answer(message: Message, table: Path, ledger: Path | None) -> Message:
    """Train or evaluate on the site's own table, as the message says.

    A site with a `ledger`, the folder of its privacy ledger, gives nothing without differential privacy. Raises
    InputError where the message asks for what cannot be done.
    """
    torch.set_num_threads(1)  # sums in one order, whatever the machine: the same seed gives the same model
    config = cast(ConfigRecord, message.content[names.CONFIG])
    _check_version(config)
    site = _site(str(table), table.stat().st_mtime_ns, *_split_of(config))
    content = _content(site, message, ledger)
    content.setdefault(names.SITE, ConfigRecord({names.NAME_KEY: site.name}))
    return Message(content, reply_to=message)


def _content(site: Site, message: Message, ledger: Path | None) -> RecordDict:
    config = cast(ConfigRecord, message.content[names.CONFIG])
    trains = message.metadata.message_type == "train"
    if trains and names.UNIT_KEY in config:
        if ledger is None:
            raise InputError(
                "the coordinator asks for private training, and this site has no privacy ledger",
                where="site",
                remedy="make one, and name its folder as 'privacy-ledger' in the node's configuration",
            )
        model = _model_of(message)
        return train_within_budget(
            site,
            model,
            config,
            ledger,
            usual=lambda: _train(site, model, config),
            share=cast(ConfigRecord | None, message.content.get(names.SECURE)),
        )
    if ledger is not None:
        raise InputError(
            f"the coordinator asks for {'training' if trains else 'an evaluation'} without differential privacy, and "
            "this site gives none",
            where="site",
            remedy="switch privacy.dp on",
        )
    return train(site, message) if trains else evaluate(site, message)


def train(site: Site, message: Message) -> RecordDict:
    """One round's training from the model in the message: the new model, and sums over people."""
    config = cast(ConfigRecord, message.content[names.CONFIG])
    model = _model_of(message)
    incoming = _sums(model, site.validation)
    loss = _train(site, model, config)
    metrics: dict[str, Any] = {
        names.PEOPLE_KEY: site.train.people,
        names.TRAIN_LOSS_KEY: loss * site.train.people,
        **incoming.to_record(names.VALIDATION),
    }
    return RecordDict({names.ARRAYS: to_array_record(parameters_of(model)), names.METRICS: MetricRecord(metrics)})


def _train(site: Site, model: MatchingModel, config: ConfigRecord) -> float:
    """Train in place as the round's settings say; returns the mean loss per person."""
    round_number, seed = _integer(config, names.ROUND_KEY), _integer(config, names.SEED_KEY)
    return train_epochs(
        model,
        site.train,
        epochs=_integer(config, names.EPOCHS_KEY),
        batch_size=_integer(config, names.BATCH_SIZE_KEY),
        learning_rate=learning_rate_of_round(
            float(cast(float, config[names.LEARNING_RATE_KEY])), round_number, _integer(config, names.ROUNDS_KEY)
        ),
        rng=np.random.default_rng([seed, round_number, _number_of(site.name)]),
    )


def evaluate(site: Site, message: Message) -> RecordDict:
    """The evaluation of the model in the message, as sums over validation and test people."""
    model = _model_of(message)
    metrics: dict[str, Any] = {
        names.PEOPLE_KEY: site.test.people,
        **_sums(model, site.validation).to_record(names.VALIDATION),
        **_sums(model, site.test).to_record(names.TEST),
    }
    return RecordDict({names.METRICS: MetricRecord(metrics)})


def _model_of(message: Message) -> MatchingModel:
    config = cast(ConfigRecord, message.content[names.CONFIG])
    model = MatchingModel(cast(list[int], config[names.HIDDEN_KEY]), seed=0)
    load_parameters(model, from_array_record(message.content.array_records[names.ARRAYS]))
    return model


def _sums(model: MatchingModel, data: PairData) -> EvaluationSums:
    return EvaluationSums.from_scores(data.outcome, predict(model, data.inputs), data.person)


@lru_cache(maxsize=640)
def _site(table: str, _changed: int, seed: int, validation_share: float, test_share: float) -> Site:
    """Read once per process and version of the file, not once per message."""
    return load_site(Path(table), seed=seed, validation_share=validation_share, test_share=test_share)


def _split_of(config: ConfigRecord) -> tuple[int, float, float]:
    validation, test = config[names.VALIDATION_SHARE_KEY], config[names.TEST_SHARE_KEY]
    return _integer(config, names.SEED_KEY), float(cast(float, validation)), float(cast(float, test))


def _check_version(config: ConfigRecord) -> None:
    theirs = config.get(names.VERSION_KEY)
    if theirs != names.PROTOCOL_VERSION:
        raise InputError(
            f"the coordinator speaks protocol version {theirs}, this site {names.PROTOCOL_VERSION}",
            where="site",
            remedy="install the same version of DJMS on both",
        )


def _integer(config: ConfigRecord, key: str) -> int:
    return int(cast(int, config[key]))


def _number_of(name: str) -> int:
    """A site's own random stream: the first 64 bits of the SHA-256 of its name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
