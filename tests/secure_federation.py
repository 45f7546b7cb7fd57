"""A whole federation of the secure aggregation protocol in one process, for tests to drive, disturb and attack.

Between any two steps a site is nothing but the bytes of `SiteSession.to_bytes`, as it is in its client's memory.
Identities are made from their names: they are test keys, worth nothing anywhere else.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from privacy.roster import Identity, Roster
from privacy.secure_aggregation.coordinator import GroupSum, SecureSum, SetUp
from privacy.secure_aggregation.errors import ValueOutOfRange
from privacy.secure_aggregation.fixed_point import Encoding
from privacy.secure_aggregation.messages import Revealed, Survivors, UnmaskRequest
from privacy.secure_aggregation.site import SiteSession
from privacy.secure_aggregation.terms import Limits, SegmentTerms, Terms

Values = Mapping[str, NDArray[np.floating[Any]]]
Entropy = Callable[[int], bytes]

TOPIC = hashlib.sha256(b"a question").digest()
SHAPES = "the model's shapes"
ANYTHING = Limits(malicious_coordinator=False)
"""Limits of a site that accepts terms without the consistency check."""

TRAIN = (
    SegmentTerms(name="people", length=2, bound=1000.0, bits=64),
    SegmentTerms(name="update", length=5, bound=2.0, bits=32),
)


def seeded(seed: str) -> Entropy:
    """Bytes that the seed and the calls before determine: for vectors and statistics, never for a real key."""
    calls = 0

    def entropy(size: int) -> bytes:
        nonlocal calls
        calls += 1
        return hashlib.shake_256(f"djms test entropy {seed} {calls}".encode()).digest(size)

    return entropy


def identity_seed(name: str) -> bytes:
    """The private key of the test identity of this name: public knowledge."""
    return hashlib.sha256(b"djms TEST identity, not a secret: " + name.encode()).digest()


def identity_of(name: str) -> Identity:
    """The test identity of this name: always the same."""
    return Identity(name, Ed25519PrivateKey.from_private_bytes(identity_seed(name)))


@dataclass(frozen=True)
class Federation:
    """Names, identities and the roster they are in."""

    identities: Mapping[str, Identity]
    root: Identity
    text: str
    roster: Roster

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self.identities))


@lru_cache(maxsize=32)
def federation_of(sites: int | tuple[str, ...]) -> Federation:
    """So many sites A, B, C ... (S000, S001 ... from 27 on), or those named."""
    if isinstance(sites, int):
        sites = tuple(chr(65 + i) if sites <= 26 else f"S{i:03}" for i in range(sites))
    root = identity_of("the-federation")
    identities = {name: identity_of(name) for name in sites}
    text = Roster.sign("Test", {name: identity.public_key for name, identity in identities.items()}, root)
    return Federation(identities, root, text, Roster.from_yaml(text, root.public_key))


def terms_of(**changes: Any) -> Terms:
    """Terms of 3-of-5 with the consistency check and two slots, but for `changes`."""
    content: dict[str, Any] = {
        "protocol": 1,
        "run": "run",
        "set_up": 1,
        "first_slot": 1,
        "slots": 2,
        "threshold": "3-of-5",
        "minimum_cohort": 3,
        "malicious_coordinator": True,
        "dropout_recovery": True,
        "groups": 0,
        "colluders": 0.0,
        "dropouts": 0.0,
        "rounding": "nearest",
        "layouts": {"train": TRAIN},
        "shapes": SHAPES,
    }
    return Terms(**(content | changes))


def values_of(encoding: Encoding, seed: int) -> dict[str, NDArray[np.float64]]:
    """Random values within the bounds, the bounds themselves among them."""
    rng = np.random.default_rng(seed)
    values = {}
    for part in encoding.segments:
        drawn = rng.uniform(-part.bound, part.bound, part.length)
        extreme = rng.random(part.length) < 0.2
        values[part.name] = np.where(extreme, np.copysign(part.bound, drawn), drawn)
    return values


def integers(encoding: Encoding, words: NDArray[np.uint8]) -> list[int]:
    """A vector's words as Python integers, 64-bit ones first."""
    wide, narrow = encoding.as_words(words)
    return [int(word) for word in wide.view("<i8")] + [int(word) for word in narrow.view("<i4")]


def decoded(encoding: Encoding, totals: Sequence[int]) -> dict[str, list[float]]:
    """What sums of integers stand for; each must lie within its word."""
    rest, values = list(totals), {}
    for bits in (64, 32):
        for part in encoding.segments:
            if part.bits == bits:
                own, rest = rest[: part.length], rest[part.length :]
                assert all(-(2 ** (bits - 1)) < total < 2 ** (bits - 1) for total in own), "a sum left its word"
                values[part.name] = [float(total) * 2.0 ** -encoding.exponent(part.name) for total in own]
    return values


def is_exactly(values: Mapping[str, NDArray[np.float64]], expected: Mapping[str, Sequence[float]]) -> bool:
    """Whether decoded values are the expected ones bit for bit."""
    return {name: list(value) for name, value in values.items()} == {name: list(v) for name, v in expected.items()}


class Cohort:
    """One set-up of a federation: the coordinator's object and every site's state as bytes."""

    def __init__(
        self,
        federation: Federation,
        terms: Terms,
        *,
        limits: Limits | None = None,
        entropy: Callable[[str], Entropy] = lambda name: os.urandom,
    ) -> None:
        self.federation = federation
        self.terms = terms
        self.roster = federation.roster
        self.limits = limits or Limits(malicious_coordinator=terms.malicious_coordinator)
        self.set_up = SetUp(terms, self.roster)
        self.states: dict[str, bytes] = {}
        self._entropy = {name: entropy(name) for name in federation.names}

    def session(self, name: str) -> SiteSession:
        """The site as it was after its last step."""
        return SiteSession.from_bytes(self.states[name])

    def step(self, name: str, what: Callable[[SiteSession], bytes | None]) -> bytes:
        """Do one step at one site. When it refuses, its state must be as it was."""
        session = self.session(name)
        try:
            answer = what(session)
        except ValueOutOfRange:
            self.states[name] = session.to_bytes()  # it leaves the run
            raise
        except Exception:
            assert session.to_bytes() == self.states[name], "a refusal changed the state"
            raise
        self.states[name] = session.to_bytes()
        return answer or b""

    def advertise(self, sites: Iterable[str], last_slot: Mapping[str, int] | None = None) -> None:
        """These sites make keys; then no others can."""
        for name in sites:
            session, advert = SiteSession.advertise(
                self.federation.identities[name],
                self.terms,
                self.limits,
                last_slot=(last_slot or {}).get(name, 0),
                entropy=self._entropy[name],
            )
            self.states[name] = session.to_bytes()
            self.set_up.add_advert(name, advert)
        self.set_up.close_adverts()

    def share(self, sites: Iterable[str]) -> None:
        """These sites share their secrets; then no others can."""
        for name in sites:
            advertised, entropy = self.set_up.adverts_for(name), self._entropy[name]
            sealed = self.step(name, lambda site: site.share(advertised, self.roster, entropy=entropy))  # noqa: B023
            self.set_up.add_shares(name, sealed)
        self.set_up.close_shares()

    def begin(self, sites: Iterable[str] | None = None) -> None:
        """The cohort opens its shares."""
        for name in self.set_up.cohort if sites is None else sites:
            message = self.set_up.begin_for(name)
            self.step(name, lambda site: site.begin(message))  # noqa: B023

    def made(self) -> Cohort:
        """The whole set-up with everybody."""
        self.advertise(self.federation.names)
        self.share(self.federation.names)
        self.begin()
        return self

    def encoding(self, kind: str = "train") -> Encoding:
        """How the cohort's vectors become words."""
        return self.terms.encoding(kind, len(self.set_up.cohort))

    def mask(self, name: str, slot: int, values: Values, *, kind: str = "train", topic: bytes = TOPIC) -> bytes:
        """The site's masked vector, with the generator of `drawn`."""
        rng = drawn(name, slot)
        return self.step(name, lambda site: site.mask(slot, kind, topic, self.terms.shapes, values, rng=rng))

    def attest(self, name: str, listed: bytes) -> bytes:
        """The site's signature on this list."""
        identity = self.federation.identities[name]
        return self.step(name, lambda site: site.attest(listed, identity))

    def unmask(self, name: str, request: bytes) -> bytes:
        """The shares the site reveals."""
        return self.step(name, lambda site: site.unmask(request, self.roster))


def drawn(name: str, slot: int) -> np.random.Generator:
    """What a site rounds by in a slot."""
    return np.random.default_rng([slot, *name.encode()])


def masked_sum(
    cohort: Cohort,
    slot: int,
    values: Mapping[str, Values],
    *,
    kind: str = "train",
    attesting: Iterable[str] | None = None,
    answering: Iterable[str] | None = None,
    altered: Callable[[str, Revealed], Revealed] = lambda name, revealed: revealed,
) -> list[GroupSum]:
    """One slot: those in `values` deliver, `attesting` sign the list, `answering` reveal, `altered` as they please."""
    total = SecureSum(cohort.set_up, slot, kind, TOPIC)
    for name in values:
        total.add_masked(name, cohort.mask(name, slot, values[name], kind=kind))
    listed = total.close()
    signing = list(values if attesting is None else attesting)
    if total.wants_signatures or (cohort.terms.malicious_coordinator and attesting is not None):
        for name in signing:
            total.add_attestation(name, cohort.attest(name, listed))
    for name in signing if answering is None else answering:
        revealed = Revealed.from_bytes(cohort.unmask(name, total.unmask_request_for(name)))
        total.add_revealed(name, altered(name, revealed).to_bytes())
    return total.result()


def expected_sum(
    cohort: Cohort, slot: int, values: Mapping[str, Values], kind: str = "train"
) -> dict[str, list[float]]:
    """The sum of what these sites encode, over Python's integers."""
    encoding = cohort.encoding(kind)
    rounding = cohort.terms.rounding
    vectors = [
        integers(encoding, encoding.encode(own, rounding=rounding, rng=drawn(name, slot)))
        for name, own in values.items()
    ]
    return decoded(encoding, [sum(column) for column in zip(*vectors, strict=True)])


def listing(slot: int, survivors: Iterable[str], dropped: Iterable[str] = ()) -> Survivors:
    """A list of survivors, in order."""
    return Survivors(slot=slot, survivors=tuple(sorted(survivors)), dropped=tuple(sorted(dropped)))


def request(listed: Survivors, signatures: Mapping[str, bytes] | None = None) -> bytes:
    """An unmask request as a coordinator may make it up."""
    return UnmaskRequest(list=listed, signatures=dict(signatures or {})).to_bytes()
