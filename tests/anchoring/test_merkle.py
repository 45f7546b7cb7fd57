"""The fast tree against the RFC's recursive definition, public vectors and a second library."""

from __future__ import annotations

import base64
import json
import pickle
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anchoring.errors import ProofInvalid, RootMismatch
from anchoring.merkle import (
    EMPTY_ROOT,
    CompactRange,
    MerkleTree,
    complete_root,
    leaf_hash,
    node_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)

VECTORS = Path(__file__).resolve().parents[3] / "shared" / "vectors"
ENTRIES = [number.to_bytes(2, "big") * (number % 5) for number in range(64)]
REFUSED = (ProofInvalid, RootMismatch)


# The definitions of RFC 9162, transcribed: 2.1.1, 2.1.3.1 and 2.1.4.1.
def split(n: int) -> int:
    k = 1
    while 2 * k < n:
        k *= 2
    return k


def mth(d: Sequence[bytes]) -> bytes:
    if not d:
        return sha256(b"").digest()
    if len(d) == 1:
        return sha256(b"\x00" + d[0]).digest()
    k = split(len(d))
    return sha256(b"\x01" + mth(d[:k]) + mth(d[k:])).digest()


def path(m: int, d: Sequence[bytes]) -> list[bytes]:
    if len(d) == 1:
        return []
    k = split(len(d))
    return [*path(m, d[:k]), mth(d[k:])] if m < k else [*path(m - k, d[k:]), mth(d[:k])]


def subproof(m: int, d: Sequence[bytes], complete: bool) -> list[bytes]:
    if m == len(d):
        return [] if complete else [mth(d)]
    k = split(len(d))
    if m <= k:
        return [*subproof(m, d[:k], complete), mth(d[k:])]
    return [*subproof(m - k, d[k:], False), mth(d[:k])]


@pytest.fixture(scope="module")
def tree() -> MerkleTree:
    return MerkleTree(map(leaf_hash, ENTRIES))


@pytest.mark.parametrize("size", range(65))
def test_roots_and_inclusion_proofs_are_those_of_the_rfc(tree: MerkleTree, size: int) -> None:
    entries = ENTRIES[:size]
    root = mth(entries)
    assert tree.root(size) == root_of(map(leaf_hash, entries)) == MerkleTree(map(leaf_hash, entries)).root() == root
    for index in range(size):
        proof = tree.inclusion_proof(index, size)
        assert proof == path(index, entries)
        verify_inclusion(index, size, leaf_hash(entries[index]), proof, root)


@pytest.mark.parametrize("second", range(1, 65))
def test_consistency_proofs_are_those_of_the_rfc(tree: MerkleTree, second: int) -> None:
    for first in range(1, second + 1):
        proof = tree.consistency_proof(first, second)
        assert proof == subproof(first, ENTRIES[:second], True)
        verify_consistency(first, second, tree.root(first), tree.root(second), proof)


def test_the_empty_tree_has_the_hash_of_nothing() -> None:
    assert MerkleTree().root() == CompactRange().root() == root_of([]) == EMPTY_ROOT == sha256(b"").digest()
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@settings(deadline=None, max_examples=40)
@given(sizes=st.lists(st.integers(0, 2500), min_size=1, max_size=4), data=st.data())
def test_trees_grown_in_any_steps_are_those_grown_leaf_by_leaf(sizes: list[int], data: st.DataObject) -> None:
    leaves = [leaf_hash(number.to_bytes(3, "big")) for number in range(sum(sizes))]
    slow, fast, grown = CompactRange(), CompactRange(), MerkleTree()
    at = 0
    for size in sizes:
        part = leaves[at : at + size]
        at += size
        fast.extend(iter(part))
        grown.extend(iter(part))
        for leaf in part:
            slow.append(leaf)
        assert slow.root() == fast.root() == grown.root()
        assert slow.size == fast.size == len(grown) == at
    if leaves:
        second = data.draw(st.integers(1, len(leaves)))
        first = data.draw(st.integers(1, second))
        index = data.draw(st.integers(0, second - 1))
        verify_inclusion(index, second, leaves[index], grown.inclusion_proof(index, second), root_of(leaves[:second]))
        proof = grown.consistency_proof(first, second)
        verify_consistency(first, second, root_of(leaves[:first]), grown.root(second), proof)


def test_appending_one_by_one_gives_the_same_tree(tree: MerkleTree) -> None:
    single = MerkleTree()
    for entry in ENTRIES:
        single.append(leaf_hash(entry))
    assert [single.root(size) for size in range(65)] == [tree.root(size) for size in range(65)]


def decoded(vector: dict[str, Any]) -> list[bytes]:
    return [base64.b64decode(part) for part in vector["proof"] or []]


@pytest.mark.skipif(not VECTORS.is_dir(), reason="the public vectors are not beside the project")
def test_the_public_inclusion_vectors_behave() -> None:
    vectors = json.loads((VECTORS / "rfc9162_inclusion.json").read_text())
    refused = 0
    for vector in vectors:
        arguments = (
            vector["leafIdx"],
            vector["treeSize"],
            base64.b64decode(vector["leafHash"]),
            decoded(vector),
            base64.b64decode(vector["root"]),
        )
        if vector["wantErr"]:
            with pytest.raises(REFUSED):
                verify_inclusion(*arguments)
            refused += 1
        else:
            verify_inclusion(*arguments)
    assert (len(vectors), refused) == (98, 92)


@pytest.mark.skipif(not VECTORS.is_dir(), reason="the public vectors are not beside the project")
def test_the_public_consistency_vectors_behave() -> None:
    vectors = json.loads((VECTORS / "rfc9162_consistency.json").read_text())
    refused = 0
    for vector in vectors:
        arguments = (
            vector["size1"],
            vector["size2"],
            base64.b64decode(vector["root1"]),
            base64.b64decode(vector["root2"]),
            decoded(vector),
        )
        if vector["wantErr"]:
            with pytest.raises(REFUSED):
                verify_consistency(*arguments)
            refused += 1
        else:
            verify_consistency(*arguments)
    assert (len(vectors), refused) == (98, 92)


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize(("index", "size"), [(0, 64), (37, 63), (62, 63), (32, 33), (1, 2)])
def test_any_flipped_byte_of_an_inclusion_proof_is_refused(tree: MerkleTree, index: int, size: int) -> None:
    proof, root, leaf = tree.inclusion_proof(index, size), tree.root(size), leaf_hash(ENTRIES[index])
    for part in range(len(proof)):
        for at in range(32):
            bad = [*proof[:part], flipped(proof[part], at), *proof[part + 1 :]]
            with pytest.raises(RootMismatch):
                verify_inclusion(index, size, leaf, bad, root)
    for at in range(32):
        with pytest.raises(RootMismatch):
            verify_inclusion(index, size, flipped(leaf, at), proof, root)
        with pytest.raises(RootMismatch):
            verify_inclusion(index, size, leaf, proof, flipped(root, at))


@pytest.mark.parametrize(("first", "second"), [(1, 64), (6, 7), (6, 8), (32, 63), (33, 34), (47, 61)])
def test_any_flipped_byte_of_a_consistency_proof_is_refused(tree: MerkleTree, first: int, second: int) -> None:
    proof, old, new = tree.consistency_proof(first, second), tree.root(first), tree.root(second)
    for part in range(len(proof)):
        for at in range(32):
            bad = [*proof[:part], flipped(proof[part], at), *proof[part + 1 :]]
            with pytest.raises(RootMismatch):
                verify_consistency(first, second, old, new, bad)
    for at in range(32):
        with pytest.raises(RootMismatch):
            verify_consistency(first, second, flipped(old, at), new, proof)
        with pytest.raises(RootMismatch):
            verify_consistency(first, second, old, flipped(new, at), proof)


@pytest.mark.parametrize("change", [lambda p: p[1:], lambda p: [*p, p[0]], lambda p: [p[0][:31], *p[1:]], lambda p: []])
def test_a_proof_of_another_shape_is_refused_before_anything_is_hashed(
    tree: MerkleTree, change: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    inclusion, consistency = tree.inclusion_proof(5, 50), tree.consistency_proof(5, 50)
    old, new, leaf = tree.root(5), tree.root(50), leaf_hash(ENTRIES[5])
    monkeypatch.setattr("anchoring.merkle.node_hash", lambda left, right: pytest.fail("hashed"))
    with pytest.raises(ProofInvalid):
        verify_inclusion(5, 50, leaf, change(inclusion), new)
    with pytest.raises(ProofInvalid):
        verify_consistency(5, 50, old, new, change(consistency))


def test_a_proof_holds_for_its_own_index_and_no_other(tree: MerkleTree) -> None:
    root = tree.root(20)
    for index in range(20):
        proof = tree.inclusion_proof(index, 20)
        for other in range(-1, 25):
            if other != index:
                with pytest.raises(REFUSED):
                    verify_inclusion(other, 20, leaf_hash(ENTRIES[index]), proof, root)


def test_an_inner_node_does_not_pass_for_an_entry(tree: MerkleTree) -> None:
    inner = leaf_hash(ENTRIES[0]) + leaf_hash(ENTRIES[1])
    proof = tree.inclusion_proof(0, 4)
    with pytest.raises(RootMismatch):
        verify_inclusion(0, 2, leaf_hash(inner), proof[1:], tree.root(4))


@pytest.mark.parametrize(("index", "size"), [(-1, 5), (5, 5), (0, 0), (3, 65), (0, -1)])
def test_no_inclusion_proof_is_given_outside_the_tree(tree: MerkleTree, index: int, size: int) -> None:
    with pytest.raises(ProofInvalid):
        tree.inclusion_proof(index, size)


@pytest.mark.parametrize(("first", "second"), [(-1, 5), (6, 5), (3, 65)])
def test_no_consistency_proof_is_given_outside_the_tree(tree: MerkleTree, first: int, second: int) -> None:
    with pytest.raises(ProofInvalid):
        tree.consistency_proof(first, second)


def test_nothing_is_proven_about_the_empty_tree(tree: MerkleTree) -> None:
    assert tree.consistency_proof(0, 9) == tree.consistency_proof(9, 9) == []
    for second in (0, 9):
        with pytest.raises(ProofInvalid):
            verify_consistency(0, second, EMPTY_ROOT, tree.root(second), [])


def test_what_is_no_hash_does_not_become_a_leaf() -> None:
    good = leaf_hash(b"")
    for bad in (b"", good[:31], good + b"\x00"):
        with pytest.raises(ProofInvalid):
            root_of([bad])
        with pytest.raises(ProofInvalid):
            root_of([good] * 1023 + [bad])
        with pytest.raises(ProofInvalid):
            MerkleTree([good, bad])
        with pytest.raises(ProofInvalid):
            MerkleTree().append(bad)


def test_a_refused_extension_leaves_the_tree_as_it_was() -> None:
    good = leaf_hash(b"")
    tree = MerkleTree([good] * 3)
    root = tree.root()
    with pytest.raises(ProofInvalid):
        tree.extend([good, b"short"])
    assert (len(tree), tree.root()) == (3, root)


def test_a_complete_root_takes_powers_of_two_only() -> None:
    one = leaf_hash(b"")
    assert complete_root(one) == one
    assert complete_root(one + one) == node_hash(one, one)
    for count in (0, 3, 5, 6, 255):
        with pytest.raises(ProofInvalid):
            complete_root(one * count)
    with pytest.raises(ProofInvalid):
        complete_root(one + b"\x00")


def test_a_mismatch_carries_both_roots_even_through_pickling(tree: MerkleTree) -> None:
    with pytest.raises(RootMismatch) as caught:
        verify_inclusion(0, 8, leaf_hash(b"another"), tree.inclusion_proof(0, 8), tree.root(8))
    copy = pickle.loads(pickle.dumps(caught.value))
    assert type(copy) is RootMismatch
    assert (copy.calculated, copy.expected) == (caught.value.calculated, tree.root(8))
    assert str(copy) == str(caught.value)


def test_a_second_library_agrees_about_roots_and_inclusion() -> None:
    pymerkle = pytest.importorskip("pymerkle")
    theirs = pymerkle.InmemoryTree(algorithm="sha256")
    ours = MerkleTree()
    for number in range(77):
        entry = b"entry %d" % number
        theirs.append_entry(entry)
        ours.append(leaf_hash(entry))
    for size in range(1, 78):
        assert theirs.get_root(size) == ours.root(size)
        for index in range(0, size, 5):
            proof = theirs.prove_inclusion(index + 1, size)
            serialized = proof.serialize()["path"]
            assert [bytes.fromhex(part) for part in serialized][1:] == ours.inclusion_proof(index, size)
