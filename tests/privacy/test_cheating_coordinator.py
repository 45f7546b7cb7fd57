"""A coordinator that cheats learns nothing, and what it tries has a name. One script for each attack."""

from __future__ import annotations

import base64
import itertools
import logging
import pickle
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from attacks import Loot, different_lists, divided_groups, forged, handed_on, votes
from hypothesis import given, settings
from hypothesis import strategies as st
from secure_federation import (
    ANYTHING,
    TOPIC,
    Cohort,
    expected_sum,
    federation_of,
    identity_of,
    is_exactly,
    listing,
    masked_sum,
    request,
    seeded,
    terms_of,
    values_of,
)

from privacy.secure_aggregation import keys, neighbours, site_sum
from privacy.secure_aggregation.coordinator import SecureSum, SetUp
from privacy.secure_aggregation.errors import (
    CohortTooSmall,
    DuplicateKey,
    KeyNotSigned,
    MalformedCiphertext,
    MalformedMessage,
    OwnKeyAltered,
    PastRound,
    ProtocolError,
    SecondUnmasking,
    SurvivorAndDropped,
    TermsRefused,
    ThresholdTooLow,
    TooFewSignatures,
    WrongSurvivors,
    WrongTopic,
)
from privacy.secure_aggregation.messages import (
    Advert,
    AdvertList,
    Attestation,
    Begin,
    MaskedVector,
    Revealed,
    SealedShares,
    Survivors,
    UnmaskRequest,
)
from privacy.secure_aggregation.site import SiteSession
from privacy.secure_aggregation.site_state import SiteState
from privacy.secure_aggregation.terms import Limits
from privacy.secure_aggregation.topology import Topology

NAMES = ("A", "B", "C", "D", "E")


class Attacked:
    """Five sites in a finished set-up that have sent their vectors of slot 1."""

    def __init__(self, **changes: Any) -> None:
        self.cohort = Cohort(federation_of(5), terms_of(**changes)).made()
        self.values = {name: values_of(self.cohort.encoding(), place) for place, name in enumerate(NAMES)}
        self.before = dict(self.cohort.states)
        self.masked = {name: self.cohort.mask(name, 1, self.values[name]) for name in NAMES}

    def expected(self, names: str) -> dict[str, list[float]]:
        return expected_sum(self.cohort, 1, {name: self.values[name] for name in names})

    def signatures(self, listed: Survivors, names: str = "ABCDE") -> dict[str, bytes]:
        return {name: Attestation.from_bytes(self.cohort.attest(name, listed.to_bytes())).signature for name in names}

    def reads(self, loot: Loot, names: str) -> bool:
        """Whether the coordinator can read the sum over these sites."""
        return is_exactly(loot.sum_over(names, self.masked), self.expected(names))


# (a) different lists of survivors


@pytest.mark.parametrize("victims", ["AB", "CE", "DE"])
def test_without_the_check_different_lists_uncover_the_sum_over_two_of_five(victims: str) -> None:
    attacked = Attacked(malicious_coordinator=False)
    lists = votes(NAMES, victims, 3, 1)
    assert all(len(shown.survivors) >= 3 and name in shown.survivors for name, shown in lists.items())
    assert attacked.cohort.set_up.topology.threshold == 3
    read = different_lists(attacked.cohort, 1, attacked.masked, victims)
    assert is_exactly(read, attacked.expected(victims))


def test_lists_alone_single_nobody_out_at_three_of_five() -> None:
    with pytest.raises(ValueError, match="vote"):
        votes(NAMES, "A", 3, 1)


def test_with_the_check_the_same_script_is_refused_by_every_site() -> None:
    attacked = Attacked()
    with pytest.raises(TooFewSignatures):
        different_lists(attacked.cohort, 1, attacked.masked, "AB")
    lists = votes(NAMES, "AB", 3, 1)
    signatures = {name: bytes(64) for name in NAMES}
    for name in NAMES:
        with pytest.raises(TooFewSignatures):
            attacked.cohort.unmask(name, request(lists[name], signatures))


def test_sites_that_signed_one_list_answer_no_other_and_sign_no_second_one() -> None:
    attacked = Attacked()
    signatures = attacked.signatures(listing(1, NAMES))
    for name, shown in votes(NAMES, "AB", 3, 1).items():
        with pytest.raises(WrongSurvivors):
            attacked.cohort.unmask(name, request(shown, signatures))
        with pytest.raises(SecondUnmasking):
            attacked.cohort.attest(name, shown.to_bytes())


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_whatever_lists_are_shown_at_most_one_sum_is_read(data: st.DataObject) -> None:
    attacked = Attacked()
    shown = st.sets(st.sampled_from(NAMES), min_size=2)
    pool = data.draw(st.lists(shown.map(lambda names: listing(1, names, set(NAMES) - names)), min_size=1, max_size=4))
    signatures: dict[int, dict[str, bytes]] = {place: {} for place in range(len(pool))}
    for name in NAMES:
        place = data.draw(st.integers(0, len(pool) - 1))
        try:
            signatures[place][name] = Attestation.from_bytes(
                attacked.cohort.attest(name, pool[place].to_bytes())
            ).signature
        except ProtocolError:
            continue
    loot, answered = Loot(attacked.cohort, 1), set()
    for name, place in itertools.product(NAMES, range(len(pool))):
        together = {other: signature for signed in signatures.values() for other, signature in signed.items()}
        try:
            loot.add(name, Revealed.from_bytes(attacked.cohort.unmask(name, request(pool[place], together))))
        except ProtocolError:
            continue
        answered.add(pool[place].survivors)
    assert len([some for some in answered if len(some) < len(NAMES)]) <= 1  # that of everybody needs no signatures
    possible = [some for n in range(1, 6) for some in itertools.combinations(NAMES, n)]
    read = [some for some in possible if attacked.reads(loot, "".join(some))]
    assert len(read) <= 1
    for some in possible:
        seeds = all(len(loot.seeds.get(name, {})) >= 3 for name in some)
        keys = all(len(loot.keys.get(name, {})) >= 3 for name in set(NAMES) - set(some))
        assert (some in read) == (some in answered and seeds and keys)


@pytest.fixture
def sparse_graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(neighbours, "FEWEST_NEIGHBOURS", 6)
    neighbours.plan_neighbourhood.cache_clear()
    yield
    monkeypatch.undo()
    neighbours.plan_neighbourhood.cache_clear()


def groups_in_a_sparse_graph() -> tuple[Cohort, dict[str, dict[str, np.ndarray]], dict[str, bytes]]:
    names = tuple(f"S{number:02}" for number in range(40))
    # Seeded: the ring and the groups are drawn from the keys, and not every ring has an arc that serves.
    terms = terms_of(threshold="60%", groups=13, slots=1)
    cohort = Cohort(federation_of(names), terms, entropy=lambda name: seeded(f"ring {name}")).made()
    values = {name: values_of(cohort.encoding(), place) for place, name in enumerate(names)}
    return cohort, values, {name: cohort.mask(name, 1, values[name]) for name in names}


@pytest.mark.usefixtures("sparse_graphs")
def test_groups_in_a_sparse_graph_are_not_divided_by_two_lists() -> None:
    cohort, values, masked = groups_in_a_sparse_graph()
    victim, read, refusals = divided_groups(cohort, 1, masked)
    assert not is_exactly(read, expected_sum(cohort, 1, {victim: values[victim]}))
    assert len(refusals) >= 37, "every site that was asked refused: all but two or three of forty"
    assert {type(refusal) for refusal in refusals} == {TooFewSignatures}


@pytest.mark.usefixtures("sparse_graphs")
def test_if_only_neighbours_were_asked_for_their_word_groups_would_be_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Topology, "peers_of", lambda self, name, cohort: self.holders_of(name))
    cohort, values, masked = groups_in_a_sparse_graph()
    victim, read, _ = divided_groups(cohort, 1, masked)
    assert is_exactly(read, expected_sum(cohort, 1, {victim: values[victim]}))


# (b) other keys


def advertised(**changes: Any) -> Cohort:
    cohort = Cohort(federation_of(5), terms_of(**changes))
    cohort.advertise(NAMES)
    return cohort


def share(cohort: Cohort, name: str, message: bytes) -> bytes:
    return cohort.step(name, lambda site: site.share(message, cohort.roster))


@pytest.mark.parametrize("signer", ["the-coordinator", "C", "the-federation"])
def test_keys_that_the_coordinator_puts_in_a_sites_place_are_refused(signer: str) -> None:
    cohort = advertised()
    message = handed_on(cohort, "A", {"B": forged(cohort, "B", signer)})
    with pytest.raises(KeyNotSigned):
        share(cohort, "A", message)
    with pytest.raises(OwnKeyAltered):
        share(cohort, "B", handed_on(cohort, "B", {"B": forged(cohort, "B", signer)}))


def test_only_a_digest_replaced_in_the_list_is_refused_too() -> None:
    cohort = advertised()
    honest = AdvertList.from_bytes(cohort.set_up.adverts_for("A"))
    for altered, refusal in (("A", OwnKeyAltered), ("B", MalformedMessage)):
        members = honest.members | {altered: bytes(32)}
        with pytest.raises(refusal):
            share(cohort, "A", honest.model_copy(update={"members": members}).to_bytes())


def test_sites_that_were_shown_different_sites_cannot_open_each_others_shares() -> None:
    cohort = advertised(threshold="60%")
    everybody = cohort.set_up.adverts
    sealed = {}
    for name, left_out in (("A", "E"), ("B", "D"), ("C", "D")):
        members = {other: everybody[other].digest() for other in NAMES if other != left_out}
        adverts = tuple(everybody[other] for other in sorted(members) if other != name)
        sealed[name] = SealedShares.from_bytes(
            share(cohort, name, AdvertList(members=members, adverts=adverts).to_bytes())
        )
    begin = Begin(cohort=("A", "B", "C"), sealed={other: sealed[other].sealed["A"] for other in ("B", "C")})
    with pytest.raises(MalformedCiphertext):
        cohort.step("A", lambda site: site.begin(begin.to_bytes()))


def respelled(public: bytes) -> list[bytes]:
    """Other public keys of the same secret: the unused bit set, and the point of order two added."""
    prime = 2**255 - 19
    inverse = pow(int.from_bytes(public, "little"), -1, prime).to_bytes(32, "little")
    return [public[:31] + bytes([public[31] ^ 0x80]), inverse]


def with_copied_keys(copies: Mapping[str, str], spelling: int) -> Cohort:
    """Colluding sites advertise the mask keys of honest ones in another spelling, under their own signatures."""
    federation = federation_of(("A", "B", "M", "Y", "Z"))
    cohort = Cohort(federation, terms_of(threshold="4-of-5"))
    originals = {}
    for name in federation.names:
        session, advert = SiteSession.advertise(federation.identities[name], cohort.terms, Limits())
        own = Advert.from_bytes(advert)
        originals[name] = own
        if name in copies:
            copied = tuple(respelled(key)[spelling] for key in originals[copies[name]].mask_keys)
            unsigned = own.model_copy(update={"mask_keys": copied, "signature": b""})
            signature = federation.identities[name].sign(unsigned.signed_part(cohort.terms.digest()))
            advert = unsigned.model_copy(update={"signature": signature}).to_bytes()
            session = SiteSession(session._state.model_copy(update={"advert": advert}))
        cohort.states[name] = session.to_bytes()
        cohort.set_up.add_advert(name, advert)
    cohort.set_up.close_adverts()
    cohort.share(federation.names)
    cohort.begin()
    return cohort


def reads_the_one_between(cohort: Cohort) -> bool:
    values = {name: values_of(cohort.encoding(), place) for place, name in enumerate(cohort.states)}
    masked = {name: cohort.mask(name, 1, own) for name, own in values.items()}
    listed = listing(1, values)
    signatures = {name: Attestation.from_bytes(cohort.attest(name, listed.to_bytes())).signature for name in values}
    loot = Loot(cohort, 1)
    for name in values:
        loot.add(name, Revealed.from_bytes(cohort.unmask(name, request(listed, signatures))))
    return is_exactly(loot.sum_over("M", masked), expected_sum(cohort, 1, {"M": values["M"]}))


@pytest.mark.parametrize("spelling", [0, 1])
def test_a_key_in_another_spelling_is_the_same_key(spelling: int) -> None:
    ours, theirs = keys.private_key(bytes(range(32))), keys.public_key(bytes(range(1, 33)))
    other = respelled(theirs)[spelling]
    assert other != theirs
    assert keys._agree(ours, other) == keys._agree(ours, theirs)


@pytest.mark.parametrize("spelling", [0, 1])
def test_colluders_that_copy_keys_in_another_spelling_cancel_no_masks(spelling: int) -> None:
    assert not reads_the_one_between(with_copied_keys({"Y": "A", "Z": "B"}, spelling))


@pytest.mark.parametrize("spelling", [0, 1])
def test_if_mask_keys_were_not_bound_to_names_copied_keys_would_cancel_masks(
    monkeypatch: pytest.MonkeyPatch, spelling: int
) -> None:
    bound = site_sum.pairwise_mask_key
    monkeypatch.setattr(
        site_sum, "pairwise_mask_key", lambda *given, pair, **details: bound(*given, pair=("", ""), **details)
    )
    assert reads_the_one_between(with_copied_keys({"Y": "A", "Z": "B"}, spelling))


def test_a_key_copied_letter_by_letter_is_refused() -> None:
    cohort = advertised()
    copied = cohort.set_up.adverts["B"].model_copy(
        update={"mask_keys": cohort.set_up.adverts["C"].mask_keys, "signature": b""}
    )
    signature = identity_of("B").sign(copied.signed_part(cohort.terms.digest()))
    with pytest.raises(DuplicateKey):
        share(cohort, "A", handed_on(cohort, "A", {"B": copied.model_copy(update={"signature": signature})}))


# (c), (d) impossible lists, and more than one


@pytest.mark.parametrize("malicious", [False, True])
def test_no_site_answers_a_list_with_a_peer_as_survivor_and_as_dropped(malicious: bool) -> None:
    attacked = Attacked(malicious_coordinator=malicious)
    both = listing(1, NAMES, ["B"])
    for name in NAMES:
        with pytest.raises(SurvivorAndDropped):
            attacked.cohort.attest(name, both.to_bytes())
        with pytest.raises(SurvivorAndDropped):
            attacked.cohort.unmask(name, request(both))


@pytest.mark.parametrize("malicious", [False, True])
@pytest.mark.parametrize("second", [listing(1, "ABCDE"), listing(1, "ABC", "DE"), listing(1, "ABCE", "D")])
def test_no_site_answers_twice_in_a_slot(malicious: bool, second: Survivors) -> None:
    attacked = Attacked(malicious_coordinator=malicious)
    first = listing(1, "ABCDE")
    signatures = attacked.signatures(first) if malicious else {}
    for name in "ABC":
        attacked.cohort.unmask(name, request(first, signatures))
        with pytest.raises(SecondUnmasking):
            attacked.cohort.unmask(name, request(second, signatures))
        with pytest.raises(SecondUnmasking):
            attacked.cohort.attest(name, second.to_bytes())


# (e) replays


def test_no_slot_is_masked_twice_and_no_past_one_is_unmasked() -> None:
    attacked = Attacked()
    cohort, listed = attacked.cohort, listing(1, NAMES)
    signatures = attacked.signatures(listed)
    for name in NAMES:
        with pytest.raises(PastRound):
            cohort.mask(name, 1, attacked.values[name])
        with pytest.raises(PastRound):
            cohort.mask(name, 1, attacked.values[name], topic=bytes(32))
        cohort.mask(name, 2, attacked.values[name])
        with pytest.raises(PastRound):
            cohort.unmask(name, request(listed, signatures))
        with pytest.raises(PastRound):
            cohort.attest(name, listed.to_bytes())


@pytest.mark.parametrize("first_slot", [1, 2])
def test_no_new_set_up_leads_back_to_an_answered_slot(first_slot: int) -> None:
    cohort = Cohort(federation_of(5), terms_of()).made()
    values = {name: values_of(cohort.encoding(), 0) for name in NAMES}
    for slot in (1, 2):
        masked_sum(cohort, slot, values)
    last = {name: cohort.session(name).last_slot for name in NAMES}
    back = Cohort(cohort.federation, terms_of(set_up=2, first_slot=first_slot))
    with pytest.raises(PastRound):
        back.advertise(NAMES, last_slot=last)


# (f) cohorts that are smaller than they look


def test_invented_sites_are_refused() -> None:
    cohort = advertised(threshold="60%")
    invented = {name: forged(cohort, name, name) for name in ("F", "G")}
    with pytest.raises(KeyNotSigned):
        share(cohort, "A", handed_on(cohort, "A", invented))
    with pytest.raises(KeyNotSigned):
        SetUp(cohort.terms, cohort.roster).add_advert("F", invented["F"].to_bytes())


def absent_from_roster_of_six() -> Cohort:
    cohort = Cohort(federation_of(6), terms_of(threshold="60%"))
    cohort.advertise(NAMES)
    return cohort


def test_absent_members_of_the_roster_are_not_impersonated() -> None:
    cohort = absent_from_roster_of_six()
    with pytest.raises(KeyNotSigned):
        share(cohort, "A", handed_on(cohort, "A", {"F": forged(cohort, "F", "the-coordinator")}))


@pytest.mark.parametrize("changes", [{"set_up": 2}, {"run": "another"}, {"threshold": "61%"}, {"shapes": "other"}])
def test_adverts_of_another_set_up_do_not_stand_for_absent_members(changes: dict[str, Any]) -> None:
    cohort = absent_from_roster_of_six()
    elsewhere = Cohort(cohort.federation, terms_of(**({"threshold": "60%"} | changes)))
    elsewhere.advertise(cohort.federation.names)
    with pytest.raises(KeyNotSigned):
        share(cohort, "A", handed_on(cohort, "A", {"F": elsewhere.set_up.adverts["F"]}))


def test_a_digest_without_an_advert_is_no_member() -> None:
    cohort = absent_from_roster_of_six()
    honest = AdvertList.from_bytes(cohort.set_up.adverts_for("A"))
    with pytest.raises(MalformedMessage):
        share(cohort, "A", honest.model_copy(update={"members": honest.members | {"F": bytes(32)}}).to_bytes())


def test_sites_that_did_not_share_are_not_made_up() -> None:
    cohort = advertised()
    cohort.share("ABCD")
    honest = Begin.from_bytes(cohort.set_up.begin_for("A"))
    ciphertext = bytes(len(honest.sealed["B"]))
    for made_up in (ciphertext, honest.sealed["B"]):
        begin = Begin(cohort=NAMES, sealed=honest.sealed | {"E": made_up})
        with pytest.raises(MalformedCiphertext):
            cohort.step("A", lambda site: site.begin(begin.to_bytes()))  # noqa: B023
    for names in (("A", "B", "C", "D", "F"), ("B", "C", "D")):
        with pytest.raises(WrongSurvivors):
            cohort.step("A", lambda site: site.begin(Begin(cohort=names, sealed={}).to_bytes()))  # noqa: B023


def test_sites_that_sent_nothing_listed_as_survivors_leave_their_masks_on_the_sum() -> None:
    cohort = Cohort(federation_of(5), terms_of(minimum_cohort=4)).made()
    values = {name: values_of(cohort.encoding(), place) for place, name in enumerate(NAMES)}
    masked = {name: cohort.mask(name, 1, values[name]) for name in "ABC"}
    for name in "DE":
        cohort.mask(name, 1, values[name])
    with pytest.raises(CohortTooSmall):
        cohort.attest("A", listing(1, "ABC", "DE").to_bytes())
    pretended = listing(1, NAMES)
    signatures = {name: Attestation.from_bytes(cohort.attest(name, pretended.to_bytes())).signature for name in "ABC"}
    loot = Loot(cohort, 1)
    for name in "ABC":
        loot.add(name, Revealed.from_bytes(cohort.unmask(name, request(pretended, signatures))))
    for some in (some for n in (1, 2, 3) for some in itertools.combinations("ABC", n)):
        read = loot.sum_over(some, masked)
        assert not is_exactly(read, expected_sum(cohort, 1, {name: values[name] for name in some}))


# (g) different models


@pytest.mark.parametrize("apart", ["A", "AB", "ACE"])
def test_answers_to_different_models_add_up_to_nothing_readable(apart: str) -> None:
    cohort = Cohort(federation_of(5), terms_of()).made()
    values = {name: values_of(cohort.encoding(), place) for place, name in enumerate(NAMES)}
    other = bytes(range(32))
    topics = {name: other if name in apart else TOPIC for name in NAMES}
    masked = {name: cohort.mask(name, 1, values[name], topic=topics[name]) for name in NAMES}
    listed = listing(1, NAMES)
    signatures = {name: Attestation.from_bytes(cohort.attest(name, listed.to_bytes())).signature for name in NAMES}
    answers = {name: Revealed.from_bytes(cohort.unmask(name, request(listed, signatures))) for name in NAMES}
    for topic in (TOPIC, other):
        loot = Loot(cohort, 1, topic=topic)
        for name, revealed in answers.items():
            loot.add(name, revealed)
        for some in (some for n in range(1, 6) for some in itertools.combinations(NAMES, n)):
            read = loot.sum_over(some, masked)
            assert not is_exactly(read, expected_sum(cohort, 1, {name: values[name] for name in some}))


def test_an_honest_coordinator_leaves_out_an_answer_to_another_model() -> None:
    cohort = Cohort(federation_of(5), terms_of()).made()
    total = SecureSum(cohort.set_up, 1, "train", TOPIC)
    with pytest.raises(WrongTopic):
        total.add_masked("A", cohort.mask("A", 1, values_of(cohort.encoding(), 0), topic=bytes(32)))
    assert total.delivered == 0


# (h) weaker terms


@pytest.mark.parametrize(
    ("changes", "limits"),
    [
        ({"malicious_coordinator": False}, Limits()),
        ({"minimum_cohort": 3}, Limits(minimum_cohort=4)),
        ({"colluders": 0.1}, Limits(colluders=0.2)),
        ({"dropouts": 0.0}, Limits(dropouts=0.1)),
        ({"groups": 2}, Limits(groups=False)),
    ],
)
def test_terms_weaker_than_a_sites_limits_are_refused_before_it_makes_a_key(
    changes: dict[str, Any], limits: Limits
) -> None:
    def no_entropy(size: int) -> bytes:
        raise AssertionError("a key was made")

    with pytest.raises(TermsRefused):
        SiteSession.advertise(identity_of("A"), terms_of(**changes), limits, entropy=no_entropy)


@pytest.mark.parametrize("threshold", ["2-of-5", "1-of-5", "50%", "20%", "3-of-5"])
def test_thresholds_that_are_not_above_half_of_the_cohort_are_refused_at_every_site(threshold: str) -> None:
    federation = federation_of(6)
    terms = terms_of(threshold=threshold)
    sessions = {}
    adverts = {}
    for name in federation.names:
        sessions[name], advert = SiteSession.advertise(federation.identities[name], terms, ANYTHING)
        adverts[name] = Advert.from_bytes(advert)
    members = {name: advert.digest() for name, advert in adverts.items()}
    for name, session in sessions.items():
        others = tuple(advert for other, advert in adverts.items() if other != name)
        before = session.to_bytes()
        with pytest.raises(ThresholdTooLow):
            session.share(AdvertList(members=members, adverts=others).to_bytes(), federation.roster)
        assert session.to_bytes() == before


def test_a_site_told_other_terms_than_the_rest_takes_part_in_nothing() -> None:
    cohort = advertised()
    weaker = Cohort(cohort.federation, terms_of(threshold="4-of-5", malicious_coordinator=False), limits=ANYTHING)
    weaker.advertise(NAMES)
    with pytest.raises(KeyNotSigned):
        share(cohort, "A", handed_on(cohort, "A", {"B": weaker.set_up.adverts["B"]}))


# (i) two set-ups mixed


def two_set_ups(stage: str) -> tuple[Cohort, Cohort]:
    cohorts = (Cohort(federation_of(5), terms_of()), Cohort(federation_of(5), terms_of(set_up=2)))
    for cohort in cohorts:
        cohort.advertise(NAMES)
        if stage != "advertised":
            cohort.share(NAMES)
        if stage == "begun":
            cohort.begin()
    return cohorts


def test_keys_of_one_set_up_are_refused_in_another() -> None:
    first, second = two_set_ups("advertised")
    with pytest.raises(OwnKeyAltered):
        share(second, "A", first.set_up.adverts_for("A"))
    with pytest.raises(KeyNotSigned):
        share(second, "A", handed_on(second, "A", {"B": first.set_up.adverts["B"]}))


def test_keys_of_the_very_same_terms_are_refused_when_the_set_up_is_made_again() -> None:
    first, again = advertised(), advertised()
    with pytest.raises(OwnKeyAltered):
        share(again, "A", first.set_up.adverts_for("A"))


def test_shares_of_one_set_up_are_not_opened_in_another() -> None:
    first, second = two_set_ups("shared")
    with pytest.raises(MalformedCiphertext):
        second.step("A", lambda site: site.begin(first.set_up.begin_for("A")))
    honest = Begin.from_bytes(second.set_up.begin_for("A"))
    mixed = honest.sealed | {"B": Begin.from_bytes(first.set_up.begin_for("A")).sealed["B"]}
    with pytest.raises(MalformedCiphertext):
        second.step("A", lambda site: site.begin(honest.model_copy(update={"sealed": mixed}).to_bytes()))


def test_signatures_of_one_set_up_do_not_count_in_another() -> None:
    first, second = two_set_ups("begun")
    listed = listing(1, NAMES)
    signatures = {}
    for cohort in (first, second):
        for name in NAMES:
            cohort.mask(name, 1, values_of(cohort.encoding(), 0))
            signatures[name] = Attestation.from_bytes(cohort.attest(name, listed.to_bytes())).signature
        if cohort is first:
            stale = dict(signatures)
    with pytest.raises(TooFewSignatures):
        second.unmask("A", request(listed, stale | {"A": signatures["A"], "B": signatures["B"]}))


# (j) colluding sites


def test_at_three_of_five_one_colluder_is_enough_to_uncover_a_site() -> None:
    # Four honest sites sign two lists by twos, and the colluder signs both: 2t <= n + c.
    attacked = Attacked()
    assert attacked.cohort.set_up.topology.neighbourhood.tolerated_colluders == 0
    loot, colluder, victim = Loot(attacked.cohort, 1), "E", "A"
    loot.add_colluder(colluder, attacked.before[colluder])
    for listed, asked in ((listing(1, NAMES), "AB"), (listing(1, "BCDE", victim), "CD")):
        signatures = attacked.signatures(listed, asked) | {colluder: signed_by_colluder(attacked, listed, colluder)}
        for name in asked:
            loot.add(name, Revealed.from_bytes(attacked.cohort.unmask(name, request(listed, signatures))))
    assert attacked.reads(loot, victim)


def signed_by_colluder(attacked: Attacked, listed: Survivors, name: str) -> bytes:
    topology = attacked.cohort.set_up.topology
    signed = listed.signed_part(topology.context, topology.digest, attacked.cohort.set_up.cohort)
    return identity_of(name).sign(signed)


@pytest.mark.parametrize("victim", ["A", "C"])
@pytest.mark.parametrize("first", ["", "A", "AB", "BC", "ABC"])
def test_at_four_of_five_two_colluders_uncover_nobody(victim: str, first: str) -> None:
    attacked = Attacked(threshold="4-of-5")
    assert attacked.cohort.set_up.topology.neighbourhood.tolerated_colluders == 2
    loot = Loot(attacked.cohort, 1)
    for colluder in "DE":
        loot.add_colluder(colluder, attacked.before[colluder])
    everybody = listing(1, NAMES)
    without = listing(1, set(NAMES) - {victim}, victim)
    for listed, asked in ((everybody, first), (without, [name for name in "ABC" if name not in first + victim])):
        signatures = attacked.signatures(listed, asked)
        signatures |= {colluder: signed_by_colluder(attacked, listed, colluder) for colluder in "DE"}
        for name in asked:
            try:
                loot.add(name, Revealed.from_bytes(attacked.cohort.unmask(name, request(listed, signatures))))
            except TooFewSignatures:
                continue
    read = [some for n in (1, 2, 3) for some in itertools.combinations("ABC", n) if attacked.reads(loot, "".join(some))]
    assert len(read) <= 1, "it learns one sum"
    assert all(len(some) >= 2 for some in read), "over t - c honest sites at least"


# (k) nothing secret is written anywhere


def spellings(secret: bytes) -> list[str]:
    """How a secret might stand in a text: its first half as hex, in base64, as Python writes bytes or numbers."""
    start = secret[:16]
    return [start.hex(), base64.b64encode(start[:15]).decode(), repr(start)[2:-1], repr(list(start))[1:-1]]


def secrets_of(states: list[bytes]) -> set[bytes]:
    found: set[bytes] = set()
    for encoded in states:
        state = SiteState.from_bytes(encoded)
        found.update((state.encryption_key, *state.mask_keys, *state.seeds))
        for share in state.shares.values():
            found.update(share[start : start + 32] for start in range(0, len(share), 32))
    found.update(identity._key.private_bytes_raw() for identity in federation_of(5).identities.values())
    return {secret for secret in found if any(secret)}


def test_nothing_that_may_be_printed_shows_a_secret(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    printed: list[str] = []
    states: list[bytes] = []

    def show(*things: object) -> None:
        printed.extend(f"{thing!r} {thing!s} {thing}" for thing in things)

    def show_states(cohort: Cohort) -> None:
        states.extend(cohort.states.values())
        for name in cohort.states:
            show(cohort.session(name), cohort.session(name)._state, cohort.session(name).terms)

    def refused(error: type[ProtocolError], attempt: Callable[[], object]) -> None:
        with pytest.raises(error) as caught:
            attempt()
        show(caught.value, pickle.loads(pickle.dumps(caught.value)), pickle.dumps(caught.value))
        printed.extend(traceback.format_exception(caught.value))
        logging.getLogger("test").error("refused", exc_info=caught.value)

    cohort = Cohort(federation_of(5), terms_of())
    show(*cohort.federation.identities.values(), cohort.roster, cohort.set_up)
    cohort.advertise(NAMES)
    show_states(cohort)
    refused(OwnKeyAltered, lambda: share(cohort, "A", handed_on(cohort, "A", {"A": forged(cohort, "A", "A")})))
    cohort.share(NAMES)
    show_states(cohort)
    refused(MalformedCiphertext, lambda: cohort.step("A", lambda site: site.begin(cohort.set_up.begin_for("B"))))
    cohort.begin()
    show_states(cohort)
    refused(MalformedMessage, lambda: SiteSession.from_bytes(cohort.states["A"][:-1]))
    refused(MalformedMessage, lambda: SiteSession.from_bytes(cohort.states["A"].replace(b"begun", b"other")))
    values = {name: values_of(cohort.encoding(), place) for place, name in enumerate(NAMES)}
    total = SecureSum(cohort.set_up, 1, "train", TOPIC)
    for name in "ABCD":
        vector = cohort.mask(name, 1, values[name])
        show(MaskedVector.from_bytes(vector))
        total.add_masked(name, vector)
    refused(PastRound, lambda: cohort.mask("A", 1, values["A"]))
    listed = total.close()
    show_states(cohort)
    for name in "ABCD":
        total.add_attestation(name, cohort.attest(name, listed))
    refused(TooFewSignatures, lambda: cohort.unmask("A", request(total.survivors)))
    for name in "ABCD":
        asked = total.unmask_request_for(name)
        revealed = cohort.unmask(name, asked)
        secret = Revealed.from_bytes(revealed)
        show(secret, UnmaskRequest.from_bytes(asked))
        refused(MalformedMessage, lambda: Revealed.from_bytes(revealed + b"\x00"))  # noqa: B023
        short = revealed.replace(next(iter(secret.seeds.values())), b"")
        refused(MalformedMessage, lambda: Revealed.from_bytes(short))  # noqa: B023
        total.add_revealed(name, revealed)
    show(total, total.result(), keys.private_key(bytes(32)))
    show_states(cohort)

    text = "\n".join([*printed, caplog.text])
    hidden = secrets_of(states)
    assert len(hidden) > 5 * (1 + 2 + 2 + 1)
    assert len(text) > 10_000
    shown = [secret.hex() for secret in hidden if any(spelling in text for spelling in spellings(secret))]
    assert not shown


def test_the_search_for_secrets_finds_them() -> None:
    cohort = advertised()
    secret = cohort.session("A")._state.seeds[0]
    assert secret in secrets_of(list(cohort.states.values()))
    for text in (secret.hex(), base64.b64encode(secret).decode(), repr(secret), repr(list(secret))):
        assert any(spelling in text for spelling in spellings(secret))


def test_an_outsider_that_sends_shares_without_keys_is_left_out() -> None:
    federation = federation_of(6)
    set_up = SetUp(terms_of(), federation.roster)
    sessions = {}
    for name in NAMES:
        sessions[name], advert = SiteSession.advertise(federation.identities[name], set_up.terms, Limits())
        set_up.add_advert(name, advert)
    set_up.close_adverts()
    with pytest.raises(PastRound):
        set_up.add_shares("F", SealedShares(sealed=dict.fromkeys(NAMES, b"")).to_bytes())
    late = SiteSession.advertise(federation.identities["F"], set_up.terms, Limits())[1]
    with pytest.raises(PastRound):
        set_up.add_advert("F", late)
    for name in NAMES:
        set_up.add_shares(name, sessions[name].share(set_up.adverts_for(name), federation.roster))
    set_up.close_shares()
    assert set_up.cohort == NAMES


@pytest.mark.parametrize("weak", [0, 1, 2**255 - 20, 2**255 - 19, 2**255 - 18, 2**255 + 1])
def test_keys_of_small_order_are_refused_before_a_round_depends_on_them(weak: int) -> None:
    cohort = advertised()
    own = cohort.set_up.adverts["B"]
    unsigned = own.model_copy(update={"mask_keys": (own.mask_keys[0], weak.to_bytes(32, "little")), "signature": b""})
    signature = identity_of("B").sign(unsigned.signed_part(cohort.terms.digest()))
    advert = unsigned.model_copy(update={"signature": signature})
    with pytest.raises(MalformedMessage, match="small order"):
        share(cohort, "A", handed_on(cohort, "A", {"B": advert}))
    with pytest.raises(MalformedMessage, match="small order"):
        SetUp(cohort.terms, cohort.roster).add_advert("B", advert.to_bytes())
