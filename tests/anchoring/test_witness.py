"""A witness believes a log's first checkpoint and after that only growth."""

from __future__ import annotations

import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchoring.checkpoint import Checkpoint
from anchoring.errors import AnchoringError, CheckpointInvalid, LogForked, LogRolledBack, NotAnchored, ProofInvalid
from anchoring.merkle import EMPTY_ROOT, MerkleTree, leaf_hash
from anchoring.witness import WitnessState, require_anchored

ORIGIN = "example.org/log"
ENTRIES = [f"entry {number}".encode() for number in range(64)]


def tree_of(entries: list[bytes]) -> MerkleTree:
    tree = MerkleTree()
    tree.extend([leaf_hash(entry) for entry in entries])
    return tree


TREE = tree_of(ENTRIES)
FORK = tree_of([*ENTRIES[:20], b"another", *ENTRIES[21:]])


def checkpoint(size: int, tree: MerkleTree = TREE, origin: str = ORIGIN) -> Checkpoint:
    return Checkpoint(origin, size, tree.root(size))


def witness_of(size: int) -> WitnessState:
    return WitnessState().update(checkpoint(size), [])


@given(st.lists(st.integers(0, 64), min_size=1, max_size=6).map(sorted))
def test_a_log_that_only_grows_is_followed(sizes: list[int]) -> None:
    state = WitnessState()
    before = 0
    for size in sizes:
        proof = TREE.consistency_proof(before, size) if 0 < before < size else []
        state = state.update(checkpoint(size), proof)
        assert state.last(ORIGIN) == checkpoint(size)
        before = size


def test_the_first_checkpoint_is_believed_whatever_it_is() -> None:
    assert WitnessState().last(ORIGIN) is None
    assert WitnessState().update(checkpoint(30, FORK), []).last(ORIGIN) == checkpoint(30, FORK)


def test_a_proof_where_nothing_is_to_be_proven_is_refused() -> None:
    proof = TREE.consistency_proof(5, 9)
    for state, size in ((WitnessState(), 9), (witness_of(0), 9), (witness_of(9), 9)):
        with pytest.raises(ProofInvalid):
            state.update(checkpoint(size), proof)


@given(st.integers(1, 64), st.integers(0, 63))
def test_a_smaller_tree_is_a_roll_back_even_with_a_proof(size: int, smaller: int) -> None:
    smaller %= size
    proof = TREE.consistency_proof(smaller, size) if smaller else []
    with pytest.raises(LogRolledBack):
        witness_of(size).update(checkpoint(smaller), proof)


def test_another_root_of_the_same_size_is_a_fork() -> None:
    with pytest.raises(LogForked):
        witness_of(30).update(checkpoint(30, FORK), [])
    assert witness_of(30).update(checkpoint(30), []) == witness_of(30)
    assert witness_of(0).update(Checkpoint(ORIGIN, 0, EMPTY_ROOT), []) == witness_of(0)


@given(st.integers(21, 63), st.integers(22, 64))
def test_a_larger_tree_of_another_history_is_a_fork(size: int, larger: int) -> None:
    larger = max(larger, size + 1)
    for tree in (TREE, FORK):
        with pytest.raises(LogForked):
            witness_of(size).update(checkpoint(larger, FORK), tree.consistency_proof(size, larger))


@given(st.data(), st.integers(1, 63))
def test_every_altered_proof_is_refused(data: st.DataObject, size: int) -> None:
    larger = data.draw(st.integers(size + 1, 64))
    proof = TREE.consistency_proof(size, larger)
    place = data.draw(st.integers(0, len(proof) - 1))
    flipped = bytearray(proof[place])
    flipped[data.draw(st.integers(0, 31))] ^= data.draw(st.integers(1, 255))
    for wrong in ([*proof[:place], bytes(flipped), *proof[place + 1 :]], proof[:-1], [*proof, bytes(32)]):
        with pytest.raises(LogForked):
            witness_of(size).update(checkpoint(larger), wrong)


def test_a_refused_checkpoint_changes_nothing() -> None:
    state = witness_of(30)
    with pytest.raises(LogForked):
        state.update(checkpoint(40), [])
    assert state == witness_of(30)
    assert state.update(checkpoint(40), TREE.consistency_proof(30, 40)).last(ORIGIN) == checkpoint(40)


def test_logs_are_followed_one_by_one() -> None:
    state = witness_of(30).update(checkpoint(5, FORK, "example.org/another"), [])
    state = state.update(checkpoint(40), TREE.consistency_proof(30, 40))
    assert [(last.origin, last.size) for last in state.seen] == [("example.org/another", 5), (ORIGIN, 40)]
    assert WitnessState.from_json(state.to_json()) == state == pickle.loads(pickle.dumps(state))


def test_extension_lines_are_no_part_of_the_tree() -> None:
    extended = Checkpoint(ORIGIN, 30, TREE.root(30), ("extension",))
    assert WitnessState().update(extended, []) == witness_of(30)
    witness_of(30).require_anchored(ENTRIES[3], 3, TREE.inclusion_proof(3, 30), extended)


@given(st.data(), st.integers(1, 64))
def test_an_entry_is_anchored_where_it_stands_and_nowhere_else(data: st.DataObject, size: int) -> None:
    index = data.draw(st.integers(0, size - 1))
    other = data.draw(st.integers(0, 63))
    proof = TREE.inclusion_proof(index, size)
    state = witness_of(size)
    state.require_anchored(ENTRIES[index], index, proof, checkpoint(size))
    require_anchored(ENTRIES[index], index, proof, checkpoint(size))
    if other != index:
        with pytest.raises(NotAnchored):
            state.require_anchored(ENTRIES[other], index, proof, checkpoint(size))
        with pytest.raises(NotAnchored):
            state.require_anchored(ENTRIES[index], other, proof, checkpoint(size))


def test_an_entry_of_a_tree_that_the_witness_did_not_see_last_is_not_anchored() -> None:
    for state in (WitnessState(), witness_of(29), witness_of(31), WitnessState().update(checkpoint(30, FORK), [])):
        with pytest.raises(NotAnchored):
            state.require_anchored(ENTRIES[3], 3, TREE.inclusion_proof(3, 30), checkpoint(30))


@pytest.mark.parametrize("index", [-1, 30, 2**70])
def test_an_index_outside_the_tree_is_not_anchored(index: int) -> None:
    with pytest.raises(NotAnchored):
        witness_of(30).require_anchored(ENTRIES[3], index, TREE.inclusion_proof(3, 30), checkpoint(30))


def test_a_log_stands_in_a_state_once() -> None:
    with pytest.raises(CheckpointInvalid):
        WitnessState((checkpoint(3), checkpoint(4)))


def altered(**changes: object) -> str:
    return json.dumps({ORIGIN: json.loads(witness_of(30).to_json())[ORIGIN] | changes})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        witness_of(30).to_json()[:-3],
        '{"example.org/log": 30}',
        '{"example.org/log": {"size": 30}}',
        f'{{"": {json.dumps(json.loads(altered())[ORIGIN])}}}',
        altered(size=-1),
        altered(size=30.0),
        altered(size="30"),
        altered(size=True),
        altered(size=0),
        altered(size=2**63),
        altered(root=None),
        altered(root="AAAA"),
        altered(root="!"),
        altered(time=5),
        altered()[:-1] + ", " + altered()[1:],
        "[" * 100_000,
    ],
)
def test_a_damaged_state_is_refused_and_not_taken_for_a_new_one(text: str) -> None:
    with pytest.raises(CheckpointInvalid):
        WitnessState.from_json(text)


@given(st.data())
def test_a_flipped_byte_in_a_state_is_refused_or_another_state(data: st.DataObject) -> None:
    content = bytearray(witness_of(30).to_json().encode())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 127))
    text = content.decode(errors="surrogateescape")
    try:
        state = WitnessState.from_json(text)
    except AnchoringError:
        return
    assert WitnessState.from_json(state.to_json()) == state
