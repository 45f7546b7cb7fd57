"""Writes the test vectors of secure aggregation, `vectors/v1/*.json`: the protocol's bytes, and what it refuses.

    PYTHONPATH=tests python tests/privacy/make_vectors.py

Everything is made from seeds: the same files come out every time, until the protocol's bytes or its refusals change.
A change of the bytes is a new version of the protocol and gets a new folder; the old files show what no longer works.

Every key here is a TEST key, derived from public texts, and worth nothing elsewhere.

A refusal by a site: {"version", "name", "why", "party": "site", "refusal", "site", "test_identity_seed", "roster",
"root_key", "state", "step", "arguments"}: from this state the step must end with an error of exactly the class
"refusal", and leave the state as it is. "state" is empty where the step makes or reads one.
A refusal by the coordinator: {..., "party": "coordinator", "terms", "sum", "calls"}: each call is the method of
`SetUp`, or else of `SecureSum`, the site that sent the message, and the message; the last one is refused.
`transcript.json` is a set-up of five sites and one sum without one of them, message by message.
All bytes are hexadecimal.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attacks import forged, handed_on, resigned
from secure_federation import (
    ANYTHING,
    SHAPES,
    TOPIC,
    Cohort,
    expected_sum,
    federation_of,
    identity_seed,
    listing,
    request,
    seeded,
    terms_of,
    values_of,
)

from privacy.secure_aggregation.coordinator import SecureSum
from privacy.secure_aggregation.keys import private_key, seal
from privacy.secure_aggregation.messages import (
    Advert,
    AdvertList,
    Attestation,
    Begin,
    MaskedVector,
    Revealed,
    SealedShares,
    Survivors,
)
from privacy.secure_aggregation.site import SiteSession
from privacy.secure_aggregation.terms import Limits, SegmentTerms

FOLDER = Path(__file__).parent / "vectors" / "v1"
NAMES = ("A", "B", "C", "D", "E")
EVERYBODY = listing(1, NAMES)
STAGES = ("advertised", "shared", "begun", "masked", "attested", "unmasked")

Vector = dict[str, Any]


class Story:
    """A federation brought up to a stage of slot 1, with what was sent on the way."""

    def __init__(self, until: str, *, sites: int = 5, seed: str = "", **changes: Any) -> None:
        self.federation = federation_of(sites)
        terms = terms_of(**({"slots": 1} | changes))
        self.cohort = Cohort(self.federation, terms, limits=ANYTHING, entropy=lambda name: seeded(f"{seed} {name}"))
        self.calls: list[list[str]] = []
        names, stage = self.federation.names, STAGES.index(until)
        self.cohort.advertise(names)
        self.calls += [["add_advert", name, self.cohort.set_up.adverts[name].to_bytes().hex()] for name in names]
        self.calls += [["close_adverts"]]
        if stage >= 1:
            self.cohort.share(names)
            self.calls += [["add_shares", name, self.cohort.set_up._sealed[name].to_bytes().hex()] for name in names]
            self.calls += [["close_shares"]]
        if stage >= 2:
            self.cohort.begin()
        if stage >= 3:
            self.vectors = {name: self.cohort.mask(name, 1, self.values(name)) for name in names}
        if stage >= 4 and terms.malicious_coordinator:
            self.signatures = {
                name: Attestation.from_bytes(self.cohort.attest(name, EVERYBODY.to_bytes())).signature for name in names
            }
        if stage >= 5:
            for name in names:
                self.cohort.unmask(name, request(EVERYBODY, self.signatures))

    def values(self, name: str) -> dict[str, Any]:
        return values_of(self.cohort.encoding(), NAMES.index(name))

    def refusal(self, step: str, message: bytes | None = None, *, site: str = "A", **arguments: Any) -> Vector:
        """The vector of a step that this story's site refuses."""
        if message is not None:
            arguments["message"] = message.hex()
        state = self.cohort.states[site].hex() if step not in ("advertise", "from_bytes") else ""
        return site_vector(step, site, state, arguments, self.federation.text, self.federation.root.public_key)

    def mask(self, **changes: Any) -> Vector:
        """The vector of masking refused: what is usual, but for `changes`."""
        usual = {"slot": 1, "kind": "train", "topic": TOPIC.hex(), "shapes": SHAPES, "values": VALUES}
        return self.refusal("mask", **(usual | changes))

    def coordinator(self, *calls: list[Any], sum_too: bool = True) -> Vector:
        """The vector of what the coordinator refuses: the last of these calls."""
        encoded = [[part.hex() if isinstance(part, bytes) else part for part in call] for call in calls]
        return {
            "party": "coordinator",
            "roster": self.federation.text,
            "root_key": self.federation.root.public_key.hex(),
            "terms": self.cohort.terms.to_bytes().hex(),
            "sum": {"slot": 1, "kind": "train", "topic": TOPIC.hex()} if sum_too else None,
            "calls": (self.calls if sum_too else []) + encoded,
        }


VALUES = {"people": [1.0, 2.0], "update": [0.5, -0.5, 2.0, -2.0, 0.0]}


def site_vector(step: str, site: str, state: str, arguments: Mapping[str, Any], text: str, root: bytes) -> Vector:
    return {
        "party": "site",
        "site": site,
        "test_identity_seed": identity_seed(site).hex(),
        "roster": text,
        "root_key": root.hex(),
        "state": state,
        "step": step,
        "arguments": dict(arguments),
    }


def terms_refused(limits: Mapping[str, Any], last_slot: int = 0, **changes: Any) -> Vector:
    federation = federation_of(5)
    arguments = {"message": terms_of(**changes).to_bytes().hex(), "limits": dict(limits), "last_slot": last_slot}
    Limits(**limits)
    return site_vector("advertise", "A", "", arguments, federation.text, federation.root.public_key)


def keys_refused() -> dict[tuple[str, str, str], Vector]:
    """At the second exchange: whose keys these are, and how many sites there are."""
    story = Story("advertised")
    cohort, adverts = story.cohort, story.cohort.set_up.adverts
    honest = AdvertList.from_bytes(cohort.set_up.adverts_for("A"))

    def listed(**changes: Any) -> Vector:
        return story.refusal("share", honest.model_copy(update=changes).to_bytes())

    def replaced(**changes: Any) -> Vector:
        return story.refusal("share", handed_on(cohort, "A", {"B": resigned(cohort, adverts["B"], "B", **changes)}))

    def three(**terms: Any) -> Vector:
        """A list of three sites under these terms."""
        story = Story("advertised", **terms)
        everybody = AdvertList.from_bytes(story.cohort.set_up.adverts_for("A"))
        members = {name: everybody.members[name] for name in "ABC"}
        return story.refusal("share", AdvertList(members=members, adverts=everybody.adverts[:2]).to_bytes())

    weak = (1).to_bytes(32, "little")
    return {
        ("key-not-signed", "KeyNotSigned", "the key of B bears the signature of somebody else"): story.refusal(
            "share", handed_on(cohort, "A", {"B": forged(cohort, "B", "somebody")})
        ),
        ("key-signed-by-another-site", "KeyNotSigned", "the key of B bears the signature of C"): story.refusal(
            "share", handed_on(cohort, "A", {"B": forged(cohort, "B", "C")})
        ),
        ("key-of-an-unknown-site", "KeyNotSigned", "F is not in the roster"): story.refusal(
            "share", handed_on(cohort, "A", {"F": forged(cohort, "F", "F")})
        ),
        ("own-key-altered", "OwnKeyAltered", "the list holds other keys in the name of A"): story.refusal(
            "share", handed_on(cohort, "A", {"A": forged(cohort, "A", "A")})
        ),
        ("own-key-missing", "OwnKeyAltered", "A is not in the list"): listed(
            members={name: digest for name, digest in honest.members.items() if name != "A"}
        ),
        ("two-sites-with-one-key", "DuplicateKey", "B advertises a key of C"): replaced(
            mask_keys=adverts["C"].mask_keys
        ),
        ("one-key-for-two-ends", "DuplicateKey", "B advertises its sealing key as mask key"): replaced(
            mask_keys=(adverts["B"].encryption_key,)
        ),
        ("key-of-small-order", "MalformedMessage", "no secret can be agreed with the key of B"): replaced(
            mask_keys=(weak,)
        ),
        ("too-many-keys", "MalformedMessage", "B advertises keys for two slots"): replaced(
            mask_keys=(*adverts["B"].mask_keys, *adverts["C"].mask_keys)
        ),
        ("site-twice", "DuplicateSite", "B's advert stands twice"): listed(
            adverts=(honest.adverts[0], *honest.adverts)
        ),
        ("advert-missing", "MalformedMessage", "B's advert is missing"): listed(adverts=honest.adverts[1:]),
        ("advert-not-in-the-list", "MalformedMessage", "the digest of B is another"): listed(
            members=honest.members | {"B": bytes(32)}
        ),
        ("cohort-below-threshold", "CohortTooSmall", "three sites and a threshold of four"): three(threshold="4-of-5"),
        ("cohort-below-minimum", "CohortTooSmall", "three sites where four must be"): three(minimum_cohort=4),
        ("threshold-not-above-half", "ThresholdTooLow", "three of six"): _without_close(6, threshold="3-of-5"),
        ("threshold-of-half-in-the-terms", "ThresholdTooLow", "50% is not above half"): _without_close(
            5, threshold="50%"
        ),
        ("list-empty", "MalformedMessage", "no bytes at all"): story.refusal("share", b""),
        ("list-truncated", "MalformedMessage", "the last byte is missing"): story.refusal(
            "share", honest.to_bytes()[:-1]
        ),
        ("list-with-a-tail", "MalformedMessage", "one byte too many"): story.refusal(
            "share", honest.to_bytes() + b"\0"
        ),
        ("message-of-another-kind", "MalformedMessage", "an advert instead of the list"): story.refusal(
            "share", adverts["B"].to_bytes()
        ),
        ("shared-already", "UnknownSetUp", "the site has shared its secrets"): Story("shared").refusal(
            "share", honest.to_bytes()
        ),
    }


def _without_close(sites: int, **changes: Any) -> Vector:
    """Sharing in a cohort that an honest coordinator would not let come about."""
    federation, terms = federation_of(sites), terms_of(**({"slots": 1} | changes))
    sessions, adverts = {}, {}
    for name in federation.names:
        made = SiteSession.advertise(federation.identities[name], terms, ANYTHING, entropy=seeded(f"half {name}"))
        sessions[name], adverts[name] = made[0], Advert.from_bytes(made[1])
    message = AdvertList(
        members={name: advert.digest() for name, advert in adverts.items()},
        adverts=tuple(advert for name, advert in adverts.items() if name != "A"),
    )
    arguments = {"message": message.to_bytes().hex()}
    state = sessions["A"].to_bytes().hex()
    return site_vector("share", "A", state, arguments, federation.text, federation.root.public_key)


def shares_refused() -> dict[tuple[str, str, str], Vector]:
    """At the beginning of the first round: other sites' shares, and the cohort."""
    story = Story("shared")
    honest = Begin.from_bytes(story.cohort.set_up.begin_for("A"))
    other = Begin.from_bytes(Story("shared", set_up=2).cohort.set_up.begin_for("A"))
    again = Begin.from_bytes(Story("shared", seed="again").cohort.set_up.begin_for("A"))

    def sealed(name: str, ciphertext: bytes) -> Vector:
        return story.refusal(
            "begin", honest.model_copy(update={"sealed": honest.sealed | {name: ciphertext}}).to_bytes()
        )

    def cohort_of(story: Story, *names: str) -> Vector:
        own = Begin.from_bytes(story.cohort.set_up.begin_for("A")).sealed
        sealed = {name: own[name] for name in own if name in names}
        return story.refusal("begin", Begin(cohort=names, sealed=sealed).to_bytes())

    sender = SiteSession.from_bytes(story.cohort.states["B"])._state
    short = seal(
        bytes(32),
        private_key(sender.encryption_key),
        story.cohort.set_up.adverts["A"].encryption_key,
        context=story.cohort.set_up.topology.digest,
        sender="B",
        holder="A",
        nonce=bytes(12),
    )
    flipped = honest.sealed["B"][:-1] + bytes([honest.sealed["B"][-1] ^ 1])
    begun = Story("begun")
    return {
        ("ciphertext-truncated", "MalformedCiphertext", "the last byte of B's is missing"): sealed(
            "B", honest.sealed["B"][:-1]
        ),
        ("ciphertext-empty", "MalformedCiphertext", "B's is empty"): sealed("B", b""),
        ("ciphertext-altered", "MalformedCiphertext", "one bit of B's is another"): sealed("B", flipped),
        ("ciphertext-of-another-site", "MalformedCiphertext", "C's stands as B's"): sealed("B", honest.sealed["C"]),
        ("ciphertext-of-another-set-up", "MalformedCiphertext", "other terms"): sealed("B", other.sealed["B"]),
        ("ciphertext-of-the-same-terms", "MalformedCiphertext", "a set-up made twice"): sealed("B", again.sealed["B"]),
        ("shares-of-another-length", "MalformedCiphertext", "B sealed half of its shares"): sealed("B", short),
        ("shares-missing", "MalformedCiphertext", "none of B"): story.refusal(
            "begin",
            honest.model_copy(
                update={"sealed": {name: shares for name, shares in honest.sealed.items() if name != "B"}}
            ).to_bytes(),
        ),
        ("cohort-without-this-site", "WrongSurvivors", "A is not in the cohort"): cohort_of(story, "B", "C", "D", "E"),
        ("cohort-with-a-stranger", "WrongSurvivors", "F did not advertise"): cohort_of(story, "A", "B", "C", "F"),
        ("cohort-shared-below-threshold", "CohortTooSmall", "three sites and a threshold of four"): cohort_of(
            Story("shared", threshold="4-of-5"), "A", "B", "C"
        ),
        ("cohort-shared-below-minimum", "CohortTooSmall", "three sites where four must be"): cohort_of(
            Story("shared", minimum_cohort=4), "A", "B", "C"
        ),
        ("group-too-small", "GroupTooSmall", "five sites do not make two groups"): cohort_of(
            Story("shared", sites=6, threshold="4-of-6", groups=2), "A", "B", "C", "D", "E"
        ),
        ("cohort-not-in-order", "MalformedMessage", "B stands before A"): cohort_of(story, "B", "A", "C"),
        ("cohort-with-a-site-twice", "DuplicateSite", "B stands twice"): cohort_of(story, "A", "B", "B", "C"),
        ("cohort-changed", "CohortChanged", "the set-up has begun with five sites"): begun.refusal(
            "begin", Begin(cohort=("A", "B", "C"), sealed={n: honest.sealed[n] for n in ("B", "C")}).to_bytes()
        ),
        ("begun-before-sharing", "UnknownSetUp", "the site has not shared"): Story("advertised").refusal(
            "begin", honest.to_bytes()
        ),
    }


def vectors_refused() -> dict[tuple[str, str, str], Vector]:
    """When a vector is to be masked."""
    begun, masked = Story("begun"), Story("masked")
    wild = (SegmentTerms(name="update", length=1, bound=1e300, bits=32),)
    return {
        ("slot-masked-already", "PastRound", "slot 1 has been answered"): masked.mask(),
        ("slot-before-the-set-up", "PastRound", "slot 0"): begun.mask(slot=0),
        ("slot-after-the-set-up", "PastRound", "slot 2 of one"): begun.mask(slot=2),
        ("shapes-changed", "ShapeChanged", "the model has other shapes"): begun.mask(shapes="others"),
        ("length-changed", "ShapeChanged", "one value more"): begun.mask(values=VALUES | {"people": [1.0, 2.0, 3.0]}),
        ("segment-missing", "ShapeChanged", "no update"): begun.mask(values={"people": [1.0, 2.0]}),
        ("unknown-kind", "ShapeChanged", "the terms name no such vector"): begun.mask(kind="evaluate"),
        ("value-out-of-range", "ValueOutOfRange", "beyond the bound"): begun.mask(
            values=VALUES | {"people": [1.0, 1000.5]}
        ),
        ("value-not-finite", "ValueOutOfRange", "not a number"): begun.mask(
            values=VALUES | {"update": [0.0, 0.0, 0.0, 0.0, "nan"]}
        ),
        ("bound-without-meaning", "TermsRefused", "no float could count in steps of it"): Story(
            "begun", layouts={"train": wild}
        ).mask(values={"update": [0.0]}),
        ("masked-before-begin", "UnknownSetUp", "the set-up has not begun"): Story("shared").mask(),
        ("resolution-too-low", "ResolutionTooLow", "32 bits for six hundred thousand sites"): begun.refusal(
            "encoding", kind="train", cohort=600_000
        ),
    }


def lists_refused() -> dict[tuple[str, str, str], Vector]:
    """When a list is to be signed, or answered."""
    masked, attested, unmasked = Story("masked"), Story("attested"), Story("unmasked")
    trusting = Story("masked", malicious_coordinator=False)
    four, strict = Story("masked", threshold="4-of-5"), Story("masked", minimum_cohort=5)
    complete = Story("masked", dropout_recovery=False)
    signatures = attested.signatures
    without_e = listing(1, "ABCD", "E")

    def attest(listed: Survivors, story: Story = masked) -> Vector:
        return story.refusal("attest", listed.to_bytes())

    def unmask(listed: Survivors, signed: Mapping[str, bytes] = signatures, story: Story = attested) -> Vector:
        return story.refusal("unmask", request(listed, signed))

    both = listing(1, NAMES, "B")
    swapped = {"A": signatures["A"], "B": signatures["C"], "C": signatures["B"], "D": bytes(64), "E": bytes(64)}
    return {
        ("survivor-and-dropped-to-sign", "SurvivorAndDropped", "B is in both lists"): attest(both),
        ("survivor-and-dropped-to-unmask", "SurvivorAndDropped", "B is in both lists"): unmask(both, {}, trusting),
        ("survivor-and-dropped-though-signed", "SurvivorAndDropped", "B is in both lists"): unmask(both),
        ("second-list-to-sign", "SecondUnmasking", "a list was signed"): attest(without_e, attested),
        ("same-list-to-sign-again", "SecondUnmasking", "this list was signed"): attest(EVERYBODY, attested),
        ("second-unmasking", "SecondUnmasking", "the slot was answered"): unmask(EVERYBODY, story=unmasked),
        ("second-unmasking-of-another-list", "SecondUnmasking", "the slot was answered"): unmask(
            without_e, story=unmasked
        ),
        ("list-after-unmasking", "SecondUnmasking", "the slot was answered"): attest(EVERYBODY, unmasked),
        ("list-is-not-the-one-signed", "WrongSurvivors", "A signed a list with E"): unmask(without_e),
        ("nothing-was-signed", "WrongSurvivors", "A signed no list"): unmask(without_e, story=masked),
        ("too-few-signatures", "TooFewSignatures", "two of three"): unmask(
            EVERYBODY, {name: signatures[name] for name in "AB"}
        ),
        ("no-signatures", "TooFewSignatures", "none"): unmask(EVERYBODY, {}),
        ("signatures-of-others", "TooFewSignatures", "names and signatures do not fit"): unmask(EVERYBODY, swapped),
        ("survivors-without-this-site", "WrongSurvivors", "A sent its vector"): attest(listing(1, "BCDE", "A")),
        ("survivors-short-of-a-site", "WrongSurvivors", "E is in no list"): attest(listing(1, "ABCD")),
        ("survivors-with-a-stranger", "WrongSurvivors", "F is not in the cohort"): attest(listing(1, "ABCDEF")),
        ("survivor-twice", "DuplicateSite", "B stands twice"): attest(listing(1, "ABBCDE")),
        ("survivors-not-in-order", "MalformedMessage", "B before A"): attest(
            Survivors(slot=1, survivors=("B", "A", "C", "D", "E"), dropped=())
        ),
        ("survivors-below-threshold", "CohortTooSmall", "three, and a threshold of four"): attest(
            listing(1, "ABC", "DE"), four
        ),
        ("survivors-below-minimum", "CohortTooSmall", "four, where five must be"): attest(without_e, strict),
        ("survivors-below-threshold-to-unmask", "CohortTooSmall", "two, and a threshold of three"): unmask(
            listing(1, "AB", "CDE"), {}, trusting
        ),
        ("recovery-not-allowed", "TermsRefused", "E dropped out, and the terms do without recovery"): attest(
            without_e, complete
        ),
        ("past-round-to-sign", "PastRound", "slot 1 after slot 2"): _past("attest", EVERYBODY.to_bytes()),
        ("past-round-to-unmask", "PastRound", "slot 1 after slot 2"): _past("unmask", request(EVERYBODY)),
        ("future-round-to-unmask", "PastRound", "slot 2 after slot 1"): unmask(listing(2, NAMES), {}, trusting),
        ("unmasked-before-masking", "PastRound", "no vector was sent"): unmask(EVERYBODY, {}, Story("begun")),
        ("unmasked-before-begin", "UnknownSetUp", "the set-up has not begun"): unmask(EVERYBODY, {}, Story("shared")),
        ("signature-cut", "MalformedMessage", "63 bytes"): attested.refusal(
            "unmask", request(EVERYBODY, signatures).replace(b"\xc4\x40" + signatures["E"], b"\xc4\x3f" + bytes(63))
        ),
        ("unmasking-truncated", "MalformedMessage", "half of the message"): attested.refusal(
            "unmask", request(EVERYBODY, signatures)[:100]
        ),
    }


def _past(step: str, message: bytes) -> Vector:
    story = Story("masked", slots=2)
    for name in NAMES:
        story.cohort.mask(name, 2, story.values(name))
    return story.refusal(step, message)


def states_refused() -> dict[tuple[str, str, str], Vector]:
    """Before a set-up, and when a state is read."""
    story = Story("shared")
    state = story.cohort.states["A"]
    return {
        ("no-check-of-the-list", "TermsRefused", "the site asks for the check"): terms_refused(
            {}, malicious_coordinator=False
        ),
        ("lower-minimum", "TermsRefused", "the site asks for five"): terms_refused({"minimum_cohort": 5}),
        ("fewer-colluders", "TermsRefused", "the site reckons with more"): terms_refused({"colluders": 0.2}),
        ("fewer-dropouts", "TermsRefused", "the site reckons with more"): terms_refused({"dropouts": 0.2}),
        ("groups-not-wanted", "TermsRefused", "the site takes no part in groups"): terms_refused(
            {"groups": False}, groups=2
        ),
        ("set-up-in-the-past", "PastRound", "slot 7 has been answered"): terms_refused({}, last_slot=7, first_slot=7),
        ("state-truncated", "MalformedMessage", "the last byte is missing"): story.refusal("from_bytes", state[:-1]),
        ("state-of-another-kind", "MalformedMessage", "terms instead of a state"): story.refusal(
            "from_bytes", story.cohort.terms.to_bytes()
        ),
    }


def coordinator_refusals() -> dict[tuple[str, str, str], Vector]:
    """What an honest coordinator leaves out, or gives up."""
    story = Story("masked", malicious_coordinator=False)
    cohort, adverts, masked = story.cohort, story.cohort.set_up.adverts, story.vectors
    asked = {name: ["add_advert", name, adverts[name].to_bytes()] for name in NAMES}
    shared = {name: cohort.set_up._sealed[name] for name in NAMES}
    elsewhere = Story("begun", malicious_coordinator=False)
    other_topic = elsewhere.cohort.mask("A", 1, elsewhere.values("A"), topic=bytes(32))
    later = Story("begun", malicious_coordinator=False, slots=2)
    other_slot = later.cohort.mask("A", 2, later.values("A"))
    vectors = [["add_masked", name, masked[name]] for name in NAMES]
    revealed = {name: cohort.unmask(name, request(EVERYBODY)) for name in NAMES}
    unasked = Revealed.from_bytes(revealed["A"]).model_copy(update={"keys": {"B": bytes(32)}}).to_bytes()
    lies = [
        Revealed.from_bytes(revealed[name]).model_copy(update={"seeds": dict.fromkeys(NAMES, bytes([place]) * 32)})
        for place, name in enumerate(NAMES)
    ]

    def keys(*calls: list[Any]) -> Vector:
        return story.coordinator(*calls, sum_too=False)

    copied = resigned(cohort, adverts["B"], "B", mask_keys=adverts["A"].mask_keys).to_bytes()
    attesting = Story("attested")
    unsigned = Attestation(slot=1, signature=bytes(64)).to_bytes()
    incomplete = SealedShares(sealed={name: shared["A"].sealed[name] for name in "BCD"}).to_bytes()
    closed = [[*call] for call in story.calls[:6]]
    return {
        ("advert-not-signed", "KeyNotSigned", "signed by somebody else"): keys(
            ["add_advert", "B", forged(cohort, "B", "somebody").to_bytes()]
        ),
        ("advert-with-a-key-of-another", "DuplicateKey", "B has a key of A"): keys(
            asked["A"], ["add_advert", "B", copied]
        ),
        ("advert-in-anothers-name", "MalformedMessage", "B sends that of A"): keys(
            ["add_advert", "B", adverts["A"].to_bytes()]
        ),
        ("advert-twice", "DuplicateSite", "two nodes call themselves A"): keys(asked["A"], asked["A"]),
        ("too-few-adverts", "CohortTooSmall", "two sites"): keys(asked["A"], asked["B"], ["close_adverts"]),
        ("advert-too-late", "PastRound", "the adverts are closed"): keys(
            asked["A"], asked["B"], asked["C"], ["close_adverts"], asked["D"]
        ),
        ("sealed-shares-incomplete", "MalformedMessage", "none for E"): keys(*closed, ["add_shares", "A", incomplete]),
        ("too-few-shared", "CohortTooSmall", "two sites"): keys(
            *closed, *(["add_shares", name, shared[name].to_bytes()] for name in "AB"), ["close_shares"]
        ),
        ("answer-to-another-question", "WrongTopic", "another global model"): story.coordinator(
            ["add_masked", "A", other_topic]
        ),
        ("vector-of-another-slot", "PastRound", "slot 2"): story.coordinator(["add_masked", "A", other_slot]),
        ("vector-twice", "DuplicateSite", "A sends two"): story.coordinator(vectors[0], vectors[0]),
        ("vector-cut", "ShapeChanged", "four bytes are missing"): story.coordinator(
            ["add_masked", "A", _cut(masked["A"])]
        ),
        ("too-few-vectors", "CohortTooSmall", "two"): story.coordinator(*vectors[:2], ["close"]),
        ("vector-too-late", "PastRound", "the sum is closed"): story.coordinator(*vectors[:4], ["close"], vectors[4]),
        ("attestation-not-signed", "KeyNotSigned", "64 zeros"): attesting.coordinator(
            *(["add_masked", name, attesting.vectors[name]] for name in NAMES),
            ["close"],
            ["add_attestation", "A", unsigned],
        ),
        ("shares-not-asked-for", "MalformedMessage", "a key of B, who survived"): story.coordinator(
            *vectors, ["close"], ["add_revealed", "A", unasked]
        ),
        ("too-few-revealed", "CohortTooSmall", "two of three"): story.coordinator(
            *vectors, ["close"], *(["add_revealed", name, revealed[name]] for name in "AB"), ["result"]
        ),
        ("wrong-shares", "RecoveryFailed", "all five lie"): story.coordinator(
            *vectors,
            ["close"],
            *(["add_revealed", name, lie.to_bytes()] for name, lie in zip(NAMES, lies, strict=True)),
            ["result"],
        ),
    }


def _cut(masked: bytes) -> bytes:
    message = MaskedVector.from_bytes(masked)
    return message.model_copy(update={"words": message.words[:-4]}).to_bytes()


def transcript() -> Vector:
    """Five sites set up two slots; in slot 1 E sends nothing."""
    story = Story("shared", slots=2, seed="transcript")
    cohort = story.cohort
    messages: list[list[str]] = [["terms", "", cohort.terms.to_bytes().hex()]]

    def note(what: str, name: str, message: bytes) -> bytes:
        messages.append([what, name, message.hex()])
        return message

    for name in NAMES:
        note("advert", name, cohort.set_up.adverts[name].to_bytes())
    for name in NAMES:
        note("advert_list", name, cohort.set_up.adverts_for(name))
        note("sealed_shares", name, cohort.set_up._sealed[name].to_bytes())
    for name in NAMES:
        note("begin", name, cohort.set_up.begin_for(name))
    cohort.begin()
    total, there = SecureSum(cohort.set_up, 1, "train", TOPIC), NAMES[:4]
    values = {name: values_of(cohort.encoding(), place) for place, name in enumerate(there)}
    for name in there:
        total.add_masked(name, note("masked_vector", name, cohort.mask(name, 1, values[name])))
    listed = note("survivors", "", total.close())
    for name in there:
        total.add_attestation(name, note("attestation", name, cohort.attest(name, listed)))
    for name in there:
        asked = note("unmask_request", name, total.unmask_request_for(name))
        total.add_revealed(name, note("revealed", name, cohort.unmask(name, asked)))
    (part,) = total.result()
    result = {name: [value.hex() for value in decoded.tolist()] for name, decoded in part.values.items()}
    expected = expected_sum(cohort, 1, values)
    assert result == {name: [value.hex() for value in decoded] for name, decoded in expected.items()}
    return {
        "version": 1,
        "name": "transcript",
        "roster": story.federation.text,
        "root_key": story.federation.root.public_key.hex(),
        "test_identity_seeds": {name: identity_seed(name).hex() for name in NAMES},
        "test_entropy": {name: f"transcript {name}" for name in NAMES},
        "topic": TOPIC.hex(),
        "values": {
            name: {part: [value.hex() for value in drawn.tolist()] for part, drawn in own.items()}
            for name, own in values.items()
        },
        "messages": messages,
        "sum": {"members": list(part.members), "values": result},
    }


def all_vectors() -> dict[str, str]:
    """The text of every file by its name."""
    makers: tuple[Callable[[], dict[tuple[str, str, str], Vector]], ...] = (
        keys_refused,
        shares_refused,
        vectors_refused,
        lists_refused,
        states_refused,
        coordinator_refusals,
    )
    files = {"transcript.json": transcript()}
    for made in (maker() for maker in makers):
        for (name, refusal, why), vector in made.items():
            if f"{name}.json" in files:
                raise ValueError(f"two vectors are called {name}")
            files[f"{name}.json"] = {"version": 1, "name": name, "why": why, "refusal": refusal} | vector
    return {name: json.dumps(vector, indent=1, sort_keys=False) + "\n" for name, vector in files.items()}


def main() -> None:
    """Write all files and remove those that are no longer made."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    made = all_vectors()
    for old in FOLDER.glob("*.json"):
        if old.name not in made:
            old.unlink()
    for name, text in made.items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
