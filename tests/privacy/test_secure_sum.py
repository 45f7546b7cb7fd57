"""The decoded sum is the integer sum of what the sites encoded, bit for bit, or a refusal with a name: nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from secure_federation import (
    SHAPES,
    TOPIC,
    TRAIN,
    Cohort,
    expected_sum,
    federation_of,
    is_exactly,
    masked_sum,
    terms_of,
    values_of,
)

from privacy.secure_aggregation import neighbours
from privacy.secure_aggregation.coordinator import GroupSum, SecureSum
from privacy.secure_aggregation.errors import (
    CohortTooSmall,
    GroupTooSmall,
    PastRound,
    ProtocolError,
    RecoveryFailed,
    TermsRefused,
    ThresholdTooLow,
    TooFewSignatures,
)
from privacy.secure_aggregation.messages import Revealed
from privacy.secure_aggregation.terms import SegmentTerms

LAYOUTS = {
    "train": TRAIN,
    "narrow": (SegmentTerms(name="w", length=7, bound=3.5, bits=32),),
    "wide": (SegmentTerms(name="z", length=3, bound=1e9, bits=64),),
    "many": (
        SegmentTerms(name="a", length=1, bound=1e-3, bits=32),
        SegmentTerms(name="b", length=0, bound=1.0, bits=32),
        SegmentTerms(name="c", length=4, bound=77.0, bits=64),
        SegmentTerms(name="d", length=3, bound=1e5, bits=32),
        SegmentTerms(name="e", length=2, bound=2.0**-30, bits=64),
    ),
}

MASKING, ATTESTING, ANSWERING = 1, 2, 3
"""How far a site comes in a slot; 0: it sends nothing."""


@dataclass(frozen=True)
class Plan:
    """A set-up and what becomes of every site in it: who advertises, who shares, how far each comes in each slot."""

    sites: int
    terms: dict[str, object]
    advertising: tuple[str, ...]
    sharing: tuple[str, ...]
    slots: tuple[dict[str, int], ...]
    kinds: tuple[str, ...]
    seed: int


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    sites = draw(st.integers(3, 9))
    names = federation_of(sites).names
    often = st.sampled_from([True] * 12 + [False])
    advertising = tuple(name for name in names if draw(often))
    sharing = tuple(name for name in advertising if draw(often))
    how_far = st.sampled_from([ANSWERING] * 10 + [0, 0, MASKING, ATTESTING])
    slots = draw(st.integers(1, 3))
    count = st.integers(sites // 2 + 1, sites).map(lambda t: f"{t}-of-{sites}")
    terms = {
        "slots": slots,
        "threshold": draw(st.one_of(count, st.sampled_from(["51%", "60%", "80%"]))),
        "minimum_cohort": draw(st.integers(3, max(3, sites - 1))),
        "malicious_coordinator": draw(st.booleans()),
        "dropout_recovery": draw(st.sampled_from([True, True, True, False])),
        "groups": draw(st.sampled_from([0, 0, 0, 1, 2, 3])),
        "rounding": draw(st.sampled_from(["nearest", "stochastic"])),
        "layouts": LAYOUTS,
    }
    return Plan(
        sites,
        terms,
        advertising,
        sharing,
        tuple({name: draw(how_far) for name in sharing} for _ in range(slots)),
        tuple(draw(st.sampled_from(sorted(LAYOUTS))) for _ in range(slots)),
        draw(st.integers(0, 2**32 - 1)),
    )


def threshold_of(text: str, holders: int) -> int:
    """How many holders rebuild a secret, from the settings' description."""
    if text.endswith("%"):
        return max(-(-int(text[:-1]) * holders // 100), holders // 2 + 1)
    return int(text.split("-")[0])


def refusal_of_set_up(plan: Plan) -> type[ProtocolError] | None:
    """What a set-up of a complete graph has to end with."""
    there, cohort = len(plan.advertising), len(plan.sharing)
    minimum, groups = plan.terms["minimum_cohort"], plan.terms["groups"]
    threshold = threshold_of(str(plan.terms["threshold"]), there)
    if there < minimum or there < threshold:
        return CohortTooSmall
    if 2 * threshold <= there:
        return ThresholdTooLow
    if cohort < minimum or cohort < threshold:
        return CohortTooSmall
    if groups and cohort // groups < 3:
        return GroupTooSmall
    return None


def refusal_of_slot(plan: Plan, cohort: Cohort, slot: int) -> type[ProtocolError] | None:
    """What a slot has to end with, as counted from who does what."""
    came = plan.slots[slot - 1].values()
    delivered, attested, answered = (sum(far >= stage for far in came) for stage in (MASKING, ATTESTING, ANSWERING))
    threshold = cohort.set_up.topology.threshold
    if delivered < plan.terms["minimum_cohort"]:
        return CohortTooSmall
    if delivered < len(plan.sharing) and not plan.terms["dropout_recovery"]:
        return TermsRefused
    if delivered < threshold or not groups_with_sums(plan, cohort, slot):
        return CohortTooSmall
    if plan.terms["malicious_coordinator"] and attested < threshold and answered:
        return TooFewSignatures
    if answered < threshold:
        return CohortTooSmall
    return None


def groups_with_sums(plan: Plan, cohort: Cohort, slot: int) -> list[tuple[str, ...]]:
    """Members of each group that delivered, where there are enough of them."""
    came = plan.slots[slot - 1]
    groups = cohort.set_up.topology.groups(cohort.set_up.cohort, slot)
    delivered = [tuple(name for name in group if came[name] >= MASKING) for group in groups]
    return [members for members in delivered if len(members) >= 3]


def made(plan: Plan) -> Cohort:
    cohort = Cohort(federation_of(plan.sites), terms_of(**plan.terms))
    cohort.advertise(plan.advertising)
    cohort.share(plan.sharing)
    cohort.begin()
    return cohort


def summed(plan: Plan, cohort: Cohort, slot: int) -> tuple[dict[str, dict[str, np.ndarray]], list[GroupSum]]:
    came = plan.slots[slot - 1]
    encoding = cohort.encoding(plan.kinds[slot - 1])
    values = {
        name: values_of(encoding, plan.seed + 100 * slot + place)
        for place, name in enumerate(came)
        if came[name] >= MASKING
    }
    sums = masked_sum(
        cohort,
        slot,
        values,
        kind=plan.kinds[slot - 1],
        attesting=[name for name in came if came[name] >= ATTESTING],
        answering=[name for name in came if came[name] >= ANSWERING],
    )
    return values, sums


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plans())
def test_the_sum_over_those_that_delivered_is_exact_or_refused_by_name(plan: Plan) -> None:
    refusal = refusal_of_set_up(plan)
    if refusal:
        with pytest.raises(ProtocolError) as refused:
            made(plan)
        assert type(refused.value) is refusal
        return
    cohort = made(plan)
    for slot in range(1, len(plan.slots) + 1):
        refusal = refusal_of_slot(plan, cohort, slot)
        if refusal:
            with pytest.raises(ProtocolError) as refused:
                summed(plan, cohort, slot)
            assert type(refused.value) is refusal
            continue
        values, sums = summed(plan, cohort, slot)
        assert sorted(part.members for part in sums) == sorted(groups_with_sums(plan, cohort, slot))
        for part in sums:
            own = {name: values[name] for name in part.members}
            assert is_exactly(part.values, expected_sum(cohort, slot, own, plan.kinds[slot - 1]))


@pytest.fixture
def sparse_graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Graphs with as few neighbours as the bounds allow, however small the cohort."""
    monkeypatch.setattr(neighbours, "FEWEST_NEIGHBOURS", 6)
    neighbours.plan_neighbourhood.cache_clear()
    yield
    monkeypatch.undo()
    neighbours.plan_neighbourhood.cache_clear()


@pytest.mark.usefixtures("sparse_graphs")
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.booleans(), st.sampled_from([0, 3]), st.sets(st.integers(0, 23), max_size=8), st.integers(0, 2))
def test_sums_in_a_sparse_graph_are_exact_or_refused(
    malicious: bool, groups: int, gone: set[int], never_shared: int
) -> None:
    federation = federation_of(24)
    cohort = Cohort(federation, terms_of(threshold="60%", malicious_coordinator=malicious, groups=groups))
    cohort.advertise(federation.names)
    assert len(cohort.set_up.topology.neighbours_of("A")) == 6
    cohort.share(federation.names[never_shared:])
    cohort.begin()
    values = {
        name: values_of(cohort.encoding(), place)
        for place, name in enumerate(federation.names)
        if place not in gone and name in cohort.set_up.cohort
    }
    topology = cohort.set_up.topology
    left = [len(set(topology.holders_of(name)) & set(values)) for name in cohort.set_up.cohort]
    if min(left) < topology.threshold:
        with pytest.raises(CohortTooSmall):
            masked_sum(cohort, 1, values)
        return
    sums = masked_sum(cohort, 1, values)
    assert sorted(name for part in sums for name in part.members) == sorted(values)
    for part in sums:
        assert is_exactly(part.values, expected_sum(cohort, 1, {name: values[name] for name in part.members}))


def test_sixty_sites_share_with_forty_neighbours_and_survive_dropouts_at_every_stage() -> None:
    federation = federation_of(60)
    names = federation.names
    cohort = Cohort(federation, terms_of(threshold="60%", slots=1))
    cohort.advertise(names[1:])
    cohort.share(names[2:])
    cohort.begin()
    assert cohort.set_up.topology.neighbourhood.neighbours == 40
    values = {name: values_of(cohort.encoding(), place) for place, name in enumerate(names[4:])}
    (part,) = masked_sum(cohort, 1, values, attesting=names[6:], answering=names[9:])
    assert part.members == names[4:]
    assert is_exactly(part.values, expected_sum(cohort, 1, values))


def everybody(sites: int = 5, **changes: object) -> tuple[Cohort, dict[str, dict[str, np.ndarray]]]:
    cohort = Cohort(federation_of(sites), terms_of(**changes)).made()
    return cohort, {name: values_of(cohort.encoding(), place) for place, name in enumerate(cohort.set_up.cohort)}


def wrong_shares(*liars: str) -> Callable[[str, Revealed], Revealed]:
    """Reveal other bytes than every share: errors without a pattern, which might cancel."""

    def altered(name: str, revealed: Revealed) -> Revealed:
        if name not in liars:
            return revealed
        keys, seeds = (
            {owner: hashlib.sha256(name.encode() + share).digest() for owner, share in shares.items()}
            for shares in (revealed.keys, revealed.seeds)
        )
        return revealed.model_copy(update={"keys": keys, "seeds": seeds})

    return altered


@pytest.mark.parametrize("malicious", [False, True])
@pytest.mark.parametrize("liars", ["A", "C", "E", "AB", "DE", "BD"])
def test_sites_that_reveal_wrong_shares_do_not_spoil_the_sum_while_enough_others_answer(
    liars: str, malicious: bool
) -> None:
    cohort, values = everybody(malicious_coordinator=malicious)
    (part,) = masked_sum(cohort, 1, values, altered=wrong_shares(*liars))
    assert is_exactly(part.values, expected_sum(cohort, 1, values))


@pytest.mark.parametrize("liars", ["A", "B", "C", "D"])
def test_one_liar_is_withstood_beside_one_dropout(liars: str) -> None:
    cohort, values = everybody()
    del values["E"]
    (part,) = masked_sum(cohort, 1, values, altered=wrong_shares(*liars))
    assert is_exactly(part.values, expected_sum(cohort, 1, values))


@pytest.mark.parametrize("liars", ["ABC", "CDE", "ABCDE"])
def test_too_many_liars_end_the_sum_and_never_give_another_one(liars: str) -> None:
    cohort, values = everybody()
    with pytest.raises(RecoveryFailed):
        masked_sum(cohort, 1, values, altered=wrong_shares(*liars))


def test_a_liar_with_a_dropout_and_no_one_to_spare_ends_the_sum() -> None:
    cohort, values = everybody()
    del values["D"], values["E"]
    with pytest.raises(RecoveryFailed):
        masked_sum(cohort, 1, values, altered=wrong_shares("B"))


def test_a_sum_that_failed_for_want_of_shares_is_exact_once_they_came() -> None:
    cohort, values = everybody(sites=6, threshold="4-of-6", groups=2, malicious_coordinator=False)
    total = SecureSum(cohort.set_up, 1, "train", TOPIC)
    for name, own in values.items():
        total.add_masked(name, cohort.mask(name, 1, own))
    total.close()
    revealed = {name: cohort.unmask(name, total.unmask_request_for(name)) for name in values}
    _, second = cohort.set_up.topology.groups(cohort.set_up.cohort, 1)
    lying = wrong_shares(*revealed)
    for name in list(values)[:4]:
        message = Revealed.from_bytes(revealed[name])
        # Everybody lies about the second group, so that the first one's masks could be taken off and its own could not.
        wrong = {
            owner: lying(name, message).seeds[owner] if owner in second else message.seeds[owner] for owner in values
        }
        total.add_revealed(name, message.model_copy(update={"seeds": wrong}).to_bytes())
    with pytest.raises(RecoveryFailed):
        total.result()
    for name in values:
        total.add_revealed(name, revealed[name])
    for part in total.result():
        assert is_exactly(part.values, expected_sum(cohort, 1, {name: values[name] for name in part.members}))


@pytest.mark.parametrize("malicious", [False, True])
def test_groups_with_too_few_survivors_are_left_out_and_the_others_are_exact(malicious: bool) -> None:
    cohort, values = everybody(sites=9, threshold="5-of-9", groups=3, malicious_coordinator=malicious)
    first, second, third = cohort.set_up.topology.groups(cohort.set_up.cohort, 1)
    there = {name: values[name] for name in (*first, *second[:2], third[0])}
    (part,) = masked_sum(cohort, 1, there)
    assert part.members == first
    assert is_exactly(part.values, expected_sum(cohort, 1, {name: values[name] for name in first}))


def test_a_round_below_the_threshold_is_given_up_and_the_next_one_is_exact() -> None:
    cohort, values = everybody()
    with pytest.raises(CohortTooSmall):
        masked_sum(cohort, 1, {name: values[name] for name in "AB"})
    (part,) = masked_sum(cohort, 2, values)
    assert is_exactly(part.values, expected_sum(cohort, 2, values))


def test_slots_may_be_skipped_and_sites_come_back() -> None:
    cohort, values = everybody(slots=5)
    for slot, there in ((1, "ABCDE"), (3, "ABDE"), (4, "ABC"), (5, "ABCDE")):
        own = {name: values[name] for name in there}
        (part,) = masked_sum(cohort, slot, own)
        assert part.members == tuple(there)
        assert is_exactly(part.values, expected_sum(cohort, slot, own))


@pytest.mark.parametrize("joining", ["ABCDE", "ABCE"])
def test_a_second_set_up_goes_on_where_the_first_one_ended(joining: str) -> None:
    cohort, values = everybody()
    for slot in (1, 2):
        masked_sum(cohort, slot, values)
    last = {name: cohort.session(name).last_slot for name in cohort.states}
    assert set(last.values()) == {2}
    renewed = Cohort(cohort.federation, terms_of(set_up=2, first_slot=3))
    renewed.advertise(joining, last_slot=last)
    renewed.share(joining)
    renewed.begin()
    assert {renewed.session(name).last_slot for name in joining} == {2}
    own = {name: values[name] for name in joining}
    for slot in (3, 4):
        (part,) = masked_sum(renewed, slot, own)
        assert is_exactly(part.values, expected_sum(renewed, slot, own))
    with pytest.raises(PastRound):
        masked_sum(renewed, 5, own)


def test_the_first_message_of_a_round_may_come_twice() -> None:
    cohort, values = everybody()
    before = dict(cohort.states)
    cohort.begin()
    assert cohort.states == before
    masked_sum(cohort, 1, values)
    before = dict(cohort.states)
    cohort.begin()
    assert cohort.states == before


def test_secrets_of_a_slot_are_gone_once_it_is_answered() -> None:
    cohort, values = everybody()
    secrets = {
        name: [
            *session._state.mask_keys[:1],
            *session._state.seeds[:1],
            *(s[:64] for s in session._state.shares.values()),
        ]
        for name in values
        for session in [cohort.session(name)]
    }
    assert all(secret in cohort.states[name] for name in values for secret in secrets[name])
    masked_sum(cohort, 1, values)
    assert not any(secret in cohort.states[name] for name in values for secret in secrets[name])


def test_vectors_that_come_after_the_sum_was_closed_are_left_out() -> None:
    cohort, values = everybody(malicious_coordinator=False)
    total = SecureSum(cohort.set_up, 1, "train", TOPIC)
    masked = {name: cohort.mask(name, 1, own) for name, own in values.items()}
    for name in "ABCD":
        total.add_masked(name, masked[name])
    total.close()
    with pytest.raises(PastRound):
        total.add_masked("E", masked["E"])
    for name in "ABCD":
        total.add_revealed(name, cohort.unmask(name, total.unmask_request_for(name)))
    (part,) = total.result()
    assert is_exactly(part.values, expected_sum(cohort, 1, {name: values[name] for name in "ABCD"}))


def test_weights_travel_inside_the_masked_vector() -> None:
    cohort, values = everybody(malicious_coordinator=False)
    total = SecureSum(cohort.set_up, 1, "train", TOPIC)
    weights = {"update": 0.5}
    for name, own in values.items():
        vector = cohort.step(
            name,
            lambda site: site.mask(1, "train", TOPIC, SHAPES, own, weights=weights),  # noqa: B023
        )
        total.add_masked(name, vector)
    total.close()
    for name in values:
        total.add_revealed(name, cohort.unmask(name, total.unmask_request_for(name)))
    (part,) = total.result()
    halved = {name: {"people": own["people"], "update": own["update"] * 0.5} for name, own in values.items()}
    assert is_exactly(part.values, expected_sum(cohort, 1, halved))
