"""The worst that a cheating coordinator can do at 3-of-5 without the check: other cohorts for other sites.

A is told that the cohort is A, B, C, and so adds masks with B and C only. The others are told the whole cohort, and
lists in which three of them call B dropped and three call C dropped. Two keys and one seed take every mask off A's
vector. `docs/secure-aggregation.md`, section 6, has the tables.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from privacy.roster import Identity, Roster
from privacy.secure_aggregation.coordinator import SetUp
from privacy.secure_aggregation.errors import CohortTooSmall, TooFewSignatures
from privacy.secure_aggregation.keys import join, pairwise_mask_key, private_key, self_mask_key
from privacy.secure_aggregation.masks import add_mask
from privacy.secure_aggregation.messages import (
    Attestation,
    Begin,
    MaskedVector,
    Revealed,
    SealedShares,
    Survivors,
    UnmaskRequest,
)
from privacy.secure_aggregation.recovery import recover_key, recover_seed
from privacy.secure_aggregation.site import SiteSession
from privacy.secure_aggregation.terms import Limits, SegmentTerms, Terms

NAMES = "ABCDE"
TOPIC = bytes(32)
COHORTS = {"A": "ABC", **dict.fromkeys("BCDE", NAMES)}
DROPPED = {"A": "", "B": "C", "C": "B", "D": "BC", "E": "BC"}
VALUES = {name: np.arange(4) + place / 2 for place, name in enumerate(NAMES)}


class Coordinator:
    """Makes one honest set-up with five sites, then tells each of them another cohort and another list."""

    def __init__(self, *, check: bool, threshold: str = "3-of-5") -> None:
        self.check = check
        self.identities = {name: Identity.generate(name) for name in NAMES}
        self.roster = Roster("five", {name: identity.public_key for name, identity in self.identities.items()})
        update = SegmentTerms(name="update", length=4, bound=10.0, bits=32)
        self.terms = Terms(
            protocol=1,
            run="run",
            set_up=1,
            first_slot=1,
            slots=1,
            threshold=threshold,
            minimum_cohort=3,
            malicious_coordinator=check,
            dropout_recovery=True,
            groups=0,
            colluders=0.0,
            dropouts=0.0,
            rounding="nearest",
            layouts={"train": (update,)},
            shapes="shapes",
        )
        self.set_up = SetUp(self.terms, self.roster)
        self.sites: dict[str, SiteSession] = {}
        self.sealed: dict[str, SealedShares] = {}
        limits = Limits(malicious_coordinator=check)
        for name in NAMES:
            self.sites[name], advert = SiteSession.advertise(self.identities[name], self.terms, limits)
            self.set_up.add_advert(name, advert)
        self.set_up.close_adverts()
        for name in NAMES:
            self.sealed[name] = SealedShares.from_bytes(
                self.sites[name].share(self.set_up.adverts_for(name), self.roster)
            )

    def masked(self) -> dict[str, MaskedVector]:
        """Every site's vector, each in the cohort it was told."""
        vectors = {}
        for name in NAMES:
            told = COHORTS[name]
            sealed = {sender: self.sealed[sender].sealed[name] for sender in told if sender != name}
            self.sites[name].begin(Begin(cohort=tuple(told), sealed=sealed).to_bytes())
            vector = self.sites[name].mask(1, "train", TOPIC, "shapes", {"update": VALUES[name]})
            vectors[name] = MaskedVector.from_bytes(vector)
        return vectors

    def revealed(self) -> dict[str, Revealed]:
        """What every site reveals on the list it was shown, which with the check it signed before."""
        lists = {
            name: Survivors(
                slot=1,
                survivors=tuple(other for other in COHORTS[name] if other not in DROPPED[name]),
                dropped=tuple(DROPPED[name]),
            )
            for name in NAMES
        }
        signatures = {}
        for name in NAMES if self.check else "":
            answer = self.sites[name].attest(lists[name].to_bytes(), self.identities[name])
            signatures[name] = Attestation.from_bytes(answer).signature
        requests = {name: UnmaskRequest(list=lists[name], signatures=signatures).to_bytes() for name in NAMES}
        return {name: Revealed.from_bytes(self.sites[name].unmask(requests[name], self.roster)) for name in NAMES}

    def uncovered(self, vector: MaskedVector, revealed: dict[str, Revealed]) -> NDArray[np.float64]:
        """A's values, by its seed and by the keys of B and C."""
        topology = self.set_up.topology
        bound: dict[str, Any] = {"context": topology.digest, "slot": 1, "topic": join("train", TOPIC)}
        adverts = self.set_up.adverts
        encoding = self.terms.encoding("train", len(COHORTS["A"]))
        words = np.frombuffer(vector.words, np.uint8).copy()
        places = {holder: place for place, holder in enumerate(topology.holders_of("A"), start=1)}
        seeds = {places[name]: shown.seeds["A"] for name, shown in revealed.items() if "A" in shown.seeds}
        seed = recover_seed(seeds, adverts["A"].seed_commitments[0], topology, "A", 1)
        add_mask(encoding, words, self_mask_key(seed, **bound), sign=-1)
        for peer in "BC":
            shares = {places[name]: shown.keys[peer] for name, shown in revealed.items() if peer in shown.keys}
            key = private_key(recover_key(shares, adverts[peer].mask_keys[0], topology, peer))
            mask = pairwise_mask_key(key, adverts["A"].mask_keys[0], pair=("A", peer), **bound)
            add_mask(encoding, words, mask, sign=-1)
        return encoding.decode(words)["update"]


def test_without_the_check_one_site_is_uncovered_at_three_of_five_without_any_colluder() -> None:
    attack = Coordinator(check=False)
    vectors = attack.masked()
    np.testing.assert_allclose(attack.uncovered(vectors["A"], attack.revealed()), VALUES["A"], atol=1e-6)


def test_with_the_check_every_site_refuses() -> None:
    attack = Coordinator(check=True)
    attack.masked()
    with pytest.raises(TooFewSignatures):
        attack.revealed()


def test_at_four_of_five_a_cohort_of_three_is_refused_from_the_start() -> None:
    with pytest.raises(CohortTooSmall):
        Coordinator(check=False, threshold="4-of-5").masked()
