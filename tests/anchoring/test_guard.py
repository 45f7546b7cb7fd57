"""What a site refuses: a log that is rolled back, forked or shown differently to others, a model that is not in it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from anchored_log import GUARD, ORIGIN, POLICY, WITNESSES, LogInMemory, hashing, manifest_of, signer_of
from hypothesis import given, settings
from hypothesis import strategies as st

from anchoring.errors import (
    AnchoringError,
    CheckpointInvalid,
    EntryInvalid,
    LogForked,
    LogRolledBack,
    ModelRolledBack,
    NotAnchored,
    ProofInvalid,
    QuorumMissing,
    SignatureInvalid,
    UnknownSigner,
)
from anchoring.guard import GuardState, Presented


def honest_log(rounds: int, run: str = "run") -> LogInMemory:
    return LogInMemory(*(manifest_of(number, run=run).to_bytes() for number in range(rounds + 1)))


def accepted(rounds: int) -> tuple[LogInMemory, GuardState]:
    """A log of so many rounds, and a site that used every model of it."""
    log, state = LogInMemory(), GuardState()
    for number in range(rounds + 1):
        before = len(log.entries)
        log.append(manifest_of(number).to_bytes())
        presented = log.presented(number, before, published=before or None)
        state, manifest = GUARD.accept(state, presented, hashing(number))
        assert manifest is not None
        assert manifest.round == number
    return log, state


def test_a_run_is_followed_to_its_end_and_the_state_survives_being_written() -> None:
    _, state = accepted(10)
    assert (state.run, state.round, state.index) == ("run", 10, 10)
    assert state.unpublished == (11,)  # the last one, whose cosignatures are still on their way
    assert GuardState.from_json(state.to_json()) == state


def test_the_same_model_may_come_again_as_after_an_abandoned_round() -> None:
    log, state = accepted(2)
    again, manifest = GUARD.accept(state, log.presented(2, 3, published=3), hashing(2))
    assert manifest is not None
    assert (again.index, again.round) == (2, 2)


def test_a_log_rolled_back_is_refused() -> None:
    log, state = accepted(3)
    with pytest.raises(LogRolledBack, match="3 leaves and had 4"):
        GUARD.accept(state, log.presented(2, 3, published=2, size=3), hashing(2))


@pytest.mark.parametrize("size", [4, 5, 9])
def test_a_forked_log_is_refused_though_its_own_key_signed_it(size: int) -> None:
    _, state = accepted(3)
    forged = [manifest_of(1, model=99), *(manifest_of(number) for number in range(2, size))]
    fork = LogInMemory(manifest_of(0).to_bytes(), *(one.to_bytes() for one in forged))
    with pytest.raises(LogForked):
        GUARD.accept(state, fork.presented(size - 1, 4, published=size), hashing(size - 1))


def test_another_model_than_the_one_in_the_log_is_refused() -> None:
    log, state = accepted(1)
    log.append(manifest_of(2).to_bytes())
    with pytest.raises(NotAnchored, match="not the one in the log"):
        GUARD.accept(state, log.presented(2, 2, published=2), hashing(3))


def test_a_manifest_that_is_in_no_log_is_refused() -> None:
    log, state = accepted(1)
    log.append(manifest_of(2).to_bytes())
    forged = replace(log.presented(2, 2, published=2), manifest=manifest_of(2, model=7).to_bytes())
    with pytest.raises(NotAnchored, match="not proven"):
        GUARD.accept(state, forged, hashing(7))


def test_an_entry_of_another_kind_is_no_manifest() -> None:
    log, state = accepted(1)
    log.append(b'{"type":"djms.records/v1"}')
    with pytest.raises(EntryInvalid):
        GUARD.accept(state, log.presented(2, 2, published=2), hashing(2))


def test_an_older_model_of_the_run_is_refused_though_it_is_in_the_log() -> None:
    log, state = accepted(4)
    with pytest.raises(ModelRolledBack, match="place 2"):
        GUARD.accept(state, log.presented(2, 5, published=5), hashing(2))


def test_an_older_model_of_an_earlier_run_is_refused_as_well() -> None:
    log, state = accepted(2)
    log.append(manifest_of(0, run="next", model=20).to_bytes())
    state, _ = GUARD.accept(state, log.presented(3, 3, published=3), hashing(20))
    with pytest.raises(ModelRolledBack, match="place 1"):
        GUARD.accept(state, log.presented(1, 4, published=4), hashing(1))


def test_a_second_model_for_one_round_is_refused_though_the_log_has_both() -> None:
    log, state = accepted(2)
    log.append(manifest_of(2, model=22).to_bytes())
    with pytest.raises(ModelRolledBack, match="round 2"):
        GUARD.accept(state, log.presented(3, 3, published=3), hashing(22))


def test_the_released_model_follows_the_last_round_and_nothing_follows_it() -> None:
    log, state = accepted(2)
    log.append(manifest_of(2, released=True, model=30).to_bytes())
    state, _ = GUARD.accept(state, log.presented(3, 3, published=3), hashing(30))
    assert state.released
    log.append(manifest_of(2, model=31).to_bytes())
    with pytest.raises(ModelRolledBack):
        GUARD.accept(state, log.presented(4, 4, published=4), hashing(31))


def test_a_manifest_of_another_run_than_the_message_is_refused() -> None:
    log = honest_log(0)
    with pytest.raises(NotAnchored, match="another run"):
        GUARD.accept(GuardState(), log.presented(0, 0), hashing(0), run="other")


def test_a_model_without_a_manifest_is_used_as_often_as_the_site_allows_and_no_more() -> None:
    log = honest_log(0)
    strict, state = GUARD, GuardState()
    with pytest.raises(NotAnchored, match="0 such models"):
        strict.accept(state, log.presented(None, 0), hashing(1))
    every_third = replace(GUARD, anchor_every_n=3)
    state, _ = every_third.accept(state, log.presented(0, 0), hashing(0))
    for _ in range(2):
        state, manifest = every_third.accept(state, log.presented(None, 1, published=1), hashing(1))
        assert manifest is None
    with pytest.raises(NotAnchored, match="2 such models"):
        every_third.accept(state, log.presented(None, 1, published=1), hashing(1))
    log.append(manifest_of(3).to_bytes())
    state, _ = every_third.accept(state, log.presented(1, 1, published=1), hashing(3))
    assert state.unanchored == 0


def test_a_log_that_shows_sites_different_trees_is_found_out_by_those_without_the_quorum() -> None:
    """Three sites are shown one tree and two another; three cosignatures are needed, so the two never get them."""
    log, state = LogInMemory(), GuardState()
    for number in range(GUARD.most_unpublished):
        log.append(manifest_of(number).to_bytes())
        state, _ = GUARD.accept(state, log.presented(number, number), hashing(number))
    last = len(log.entries)
    log.append(manifest_of(last).to_bytes())
    with pytest.raises(QuorumMissing, match="other sites may be shown another log"):
        GUARD.accept(state, log.presented(last, last), hashing(last))


def test_the_other_trees_cosignatures_do_not_help_it() -> None:
    shown, other = honest_log(1), LogInMemory(manifest_of(0, model=50).to_bytes(), manifest_of(1, model=51).to_bytes())
    state, _ = GUARD.accept(GuardState(), shown.presented(0, 0, size=1), hashing(0))
    mixed = replace(shown.presented(1, 1), published=other.cosigned(1), published_consistency=())
    with pytest.raises(LogForked, match="witnesses cosigned"):
        GUARD.accept(state, mixed, hashing(1))


@pytest.mark.parametrize(
    "by", [(), WITNESSES[:2], (WITNESSES[0],) * 3, tuple(signer_of(f"s{i}", f"s{i}") for i in range(5))]
)
def test_a_checkpoint_that_too_few_cosigned_is_not_published(by: tuple[object, ...]) -> None:
    log, state = accepted(1)
    log.append(manifest_of(2).to_bytes())
    text = log.cosigned(2, by)  # type: ignore[arg-type]
    presented = log.presented(2, 2, published=2)
    assert GUARD.accept(state, presented, hashing(2))[0].unpublished == (3,)
    after, _ = GUARD.accept(state, replace(presented, published=text), hashing(2))
    assert after.unpublished == (2, 3)  # as if nothing had come


def test_models_used_again_under_one_checkpoint_count_each_time() -> None:
    log, state = honest_log(0), GuardState()
    for _ in range(GUARD.most_unpublished):
        state, _ = GUARD.accept(state, log.presented(0, len(state.unpublished) and 1), hashing(0))
    with pytest.raises(QuorumMissing):
        GUARD.accept(state, log.presented(0, 1), hashing(0))


def test_a_tree_is_cosigned_though_its_models_are_refused_for_want_of_a_quorum() -> None:
    log, state = LogInMemory(), GuardState()
    for number in range(GUARD.most_unpublished):
        log.append(manifest_of(number).to_bytes())
        state, _ = GUARD.accept(state, log.presented(number, number), hashing(number))
    last = len(log.entries)
    log.append(manifest_of(last).to_bytes())
    with pytest.raises(QuorumMissing):
        GUARD.accept(state, log.presented(last, last), hashing(last))
    state, _ = GUARD.accept(state, log.presented(None, last), None)
    log.append(manifest_of(last + 1).to_bytes())
    state, _ = GUARD.accept(state, log.presented(last + 1, last + 1, published=last + 1), hashing(last + 1))
    assert state.unpublished == (last + 2,)


def test_without_a_policy_no_quorum_is_asked_for_and_forks_of_ones_own_view_still_are() -> None:
    alone = replace(GUARD, policy=None)
    log, state = LogInMemory(), GuardState()
    for number in range(10):
        log.append(manifest_of(number).to_bytes())
        state, _ = alone.accept(state, log.presented(number, number), hashing(number))
    fork = LogInMemory(*(manifest_of(number, model=60 + number).to_bytes() for number in range(11)))
    with pytest.raises(LogForked):
        alone.accept(state, fork.presented(10, 10), hashing(70))


def test_a_checkpoint_by_another_key_or_of_another_log_is_refused() -> None:
    log = honest_log(0)
    stranger = replace(log.presented(0, 0), checkpoint=log.checkpoint(signer=signer_of(ORIGIN, "stranger")))
    with pytest.raises(UnknownSigner):
        GUARD.accept(GuardState(), stranger, hashing(0))
    altered = replace(log.presented(0, 0), checkpoint=log.checkpoint().replace("\n1\n", "\n2\n"))
    with pytest.raises(SignatureInvalid):
        GUARD.accept(GuardState(), altered, hashing(0))


@pytest.mark.parametrize(
    "cut", [lambda p: p[:-1], lambda p: (*p, b"\x00" * 32), lambda p: p[::-1], lambda p: (b"\x01" * 32, *p[1:])]
)
def test_a_proof_that_was_cut_lengthened_turned_or_altered_is_refused(cut: object) -> None:
    log, state = accepted(4)
    log.append(*(manifest_of(number).to_bytes() for number in (5, 6)))
    whole = log.presented(6, 5, published=5)
    for field in ("consistency", "inclusion", "published_consistency"):
        proof = getattr(whole, field)
        assert len(proof) >= 2
        with pytest.raises(AnchoringError):
            GUARD.accept(state, replace(whole, **{field: cut(proof)}), hashing(6))  # type: ignore[operator]
    GUARD.accept(state, whole, hashing(6))


def test_proof_where_nothing_is_to_be_proven_is_refused() -> None:
    log = honest_log(0)
    with pytest.raises(ProofInvalid):
        GUARD.accept(GuardState(), replace(log.presented(0, 0), consistency=(b"\x00" * 32,)), hashing(0))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_one_flipped_bit_in_anything_presented_is_refused(data: st.DataObject) -> None:
    log, state = accepted(4)
    log.append(*(manifest_of(number).to_bytes() for number in (5, 6)))
    whole = log.presented(6, 5, published=5)
    field = data.draw(
        st.sampled_from(["checkpoint", "manifest", "consistency", "inclusion", "published", "published_consistency"])
    )
    value = getattr(whole, field)
    raw = value.encode() if isinstance(value, str) else value if isinstance(value, bytes) else b"".join(value)
    place = data.draw(st.integers(0, 8 * len(raw) - 1))
    flipped = bytearray(raw)
    flipped[place // 8] ^= 1 << place % 8
    if isinstance(value, str):
        try:
            altered: object = flipped.decode()
        except UnicodeDecodeError:
            return  # no text any more: it cannot be put into a message
    elif isinstance(value, bytes):
        altered = bytes(flipped)
    else:
        altered = tuple(bytes(flipped[at : at + 32]) for at in range(0, len(flipped), 32))
    changed = replace(whole, **{field: altered})
    try:
        after, _ = GUARD.accept(state, changed, hashing(6))
    except AnchoringError:
        return
    # A cosignature line that names another witness is lost: without harm while the quorum stands, and otherwise the
    # checkpoint counts as if no quorum had been shown.
    assert field == "published"
    unshown = replace(whole, published=None, published_consistency=())
    assert after in [GUARD.accept(state, shown, hashing(6))[0] for shown in (whole, unshown)]


@pytest.mark.parametrize("text", ["", "{}", "null", "[]", '{"log": {}}', "not json"])
def test_a_damaged_state_is_never_taken_for_one_that_saw_nothing(text: str) -> None:
    with pytest.raises(CheckpointInvalid):
        GuardState.from_json(text)


def test_a_state_with_a_value_of_another_kind_is_damaged() -> None:
    _, state = accepted(1)
    for before, after in (
        ('"round": 1', '"round": "1"'),
        ('"released": false', '"released": 0'),
        ("[\n    2", "[\n    null"),
    ):
        text = state.to_json()
        assert before in text
        with pytest.raises(CheckpointInvalid):
            GuardState.from_json(text.replace(before, after))


def test_a_refusal_changes_nothing() -> None:
    log, state = accepted(3)
    before = state.to_json()
    with pytest.raises(LogRolledBack):
        GUARD.accept(state, log.presented(2, 3, published=2, size=3), hashing(2))
    assert state.to_json() == before


def test_nothing_but_a_checkpoint_can_be_shown_too() -> None:
    log = honest_log(3)
    state, manifest = GUARD.accept(GuardState(), Presented(log.checkpoint(), ()), None)
    assert manifest is None
    assert state.log.last(ORIGIN) is not None
    assert POLICY.quorum == 3
