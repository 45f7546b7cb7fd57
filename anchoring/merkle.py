"""Merkle trees as in RFC 6962 and RFC 9162, section 2.1: hashes, growing trees, proofs and their verification.

A leaf's hash is SHA-256(0x00 ‖ entry), an inner node's SHA-256(0x01 ‖ left ‖ right), the empty tree's SHA-256(""). A
node is named by its level (leaves are level 0) and its index there, and is complete when it covers 2^level leaves.
Complete nodes never change as a tree grows: everything here is made of them.

Rules: pure, no files; a proof's exact length is checked before anything is hashed; a proof that cannot be one is a
`ProofInvalid`, one that leads elsewhere a `RootMismatch` with both roots.

    tree = MerkleTree(leaf_hash(entry) for entry in entries)
    verify_inclusion(3, len(tree), leaf_hash(entries[3]), tree.inclusion_proof(3), tree.root())
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from itertools import islice
from typing import TypeAlias

from anchoring.errors import ProofInvalid, RootMismatch

HASH_SIZE = 32
"""Bytes of a hash."""

EMPTY_ROOT = sha256(b"").digest()
"""Root of the tree without leaves."""

Node: TypeAlias = Callable[[int, int], bytes]
"""Gives the hash of the complete node at a level and an index."""

_CHUNK_LEVEL = 10
_ASK = "ask for the proof again and trust nothing it was to prove"
_CALL = "ask for what is within the tree"


def leaf_hash(entry: bytes) -> bytes:
    """Hash of an entry as a leaf (32 bytes)."""
    return sha256(b"\x00" + entry).digest()


def leaf_hashes(entries: Iterable[bytes]) -> list[bytes]:
    """Hashes of entries as leaves, in order; as `leaf_hash` for each, and faster."""
    return [sha256(b"\x00" + entry).digest() for entry in entries]


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of the node above two nodes (32 bytes)."""
    return sha256(b"\x01" + left + right).digest()


def complete_root(hashes: bytes) -> bytes:
    """Root above 2^k concatenated hashes of one level, k >= 0. Raises ProofInvalid for any other number of bytes."""
    count, rest = divmod(len(hashes), HASH_SIZE)
    if rest or count < 1 or count & (count - 1):
        raise ProofInvalid(f"{len(hashes)} bytes are no power of two of hashes", remedy=_CALL)
    return _subtrees([hashes[at : at + HASH_SIZE] for at in range(0, len(hashes), HASH_SIZE)])[0][0]


class CompactRange:
    """A growing tree of which only the roots of its largest complete subtrees are kept, at most 64 of them."""

    __slots__ = ("_roots", "size")

    def __init__(self) -> None:
        self.size = 0
        self._roots: list[bytes] = []

    def append(self, leaf_hash: bytes) -> None:
        """Add a leaf. Raises ProofInvalid when it is no hash."""
        self._add(_checked_hash(leaf_hash, "a leaf's hash"), 0)

    def extend(self, leaf_hashes: Iterable[bytes]) -> None:
        """Add leaves in order; as `append` for each, and faster. Raises ProofInvalid when one is no hash."""
        waiting = iter(leaf_hashes)
        for leaf in islice(waiting, -self.size % (1 << _CHUNK_LEVEL)):
            self.append(leaf)
        while chunk := list(islice(waiting, 1 << _CHUNK_LEVEL)):
            if set(map(len, chunk)) != {HASH_SIZE}:
                for leaf in chunk:
                    self.append(leaf)  # raises at the one that is no hash
            for node, level in _subtrees(chunk):
                self._add(node, level)

    def root(self) -> bytes:
        """Root of the tree so far."""
        return _joined(self._roots) if self._roots else EMPTY_ROOT

    def _add(self, node: bytes, level: int) -> None:
        position = self.size >> level
        while position & 1:
            node = node_hash(self._roots.pop(), node)
            position >>= 1
        self._roots.append(node)
        self.size += 1 << level


def root_of(leaf_hashes: Iterable[bytes]) -> bytes:
    """Root of the tree with these leaves, read once and not kept. Raises ProofInvalid when one is no hash."""
    tree = CompactRange()
    tree.extend(leaf_hashes)
    return tree.root()


class MerkleTree:
    """A tree in memory, 64 bytes per leaf, that gives roots and proofs of every size it once had."""

    __slots__ = ("_levels",)

    def __init__(self, leaf_hashes: Iterable[bytes] = ()) -> None:
        self._levels = [bytearray()]
        self.extend(leaf_hashes)

    def __len__(self) -> int:
        """Number of leaves."""
        return len(self._levels[0]) // HASH_SIZE

    def append(self, leaf_hash: bytes) -> None:
        """Add a leaf. Raises ProofInvalid when it is no hash."""
        self._levels[0] += _checked_hash(leaf_hash, "a leaf's hash")
        self._complete()

    def extend(self, leaf_hashes: Iterable[bytes]) -> None:
        """Add leaves in order: all of them, or none and a ProofInvalid when one is no hash."""
        leaves = self._levels[0]
        before = len(leaves)
        try:
            for leaf in leaf_hashes:
                leaves += _checked_hash(leaf, "a leaf's hash")
        except BaseException:
            del leaves[before:]
            raise
        self._complete()

    def root(self, size: int | None = None) -> bytes:
        """Root of the first `size` leaves, of all when none is given. Raises ProofInvalid for a size above."""
        return root_from(self.node, self._checked_size(size))

    def inclusion_proof(self, index: int, size: int | None = None) -> list[bytes]:
        """PATH(index, D[size]) of RFC 9162, 2.1.3.1. Raises ProofInvalid unless 0 <= index < size <= len(self)."""
        return inclusion_proof_from(self.node, index, self._checked_size(size))

    def consistency_proof(self, first: int, second: int | None = None) -> list[bytes]:
        """PROOF(first, D[second]) of RFC 9162, 2.1.4.1; empty when first is 0 or second, where nothing is to be shown.

        Raises ProofInvalid unless 0 <= first <= second <= len(self).
        """
        return consistency_proof_from(self.node, first, self._checked_size(second))

    def node(self, level: int, index: int) -> bytes:
        """Hash of a complete node, or b"" where there is none yet."""
        return bytes(self._levels[level][index * HASH_SIZE : (index + 1) * HASH_SIZE])

    def _complete(self) -> None:
        level = 0
        while len(below := self._levels[level]) >= 2 * HASH_SIZE:
            level += 1
            if level == len(self._levels):
                self._levels.append(bytearray())
            above = self._levels[level]
            pairs = range(2 * len(above), len(below) - HASH_SIZE, 2 * HASH_SIZE)
            if not pairs:
                return
            for at in pairs:
                above += sha256(b"\x01" + below[at : at + 2 * HASH_SIZE]).digest()

    def _checked_size(self, size: int | None) -> int:
        if size is None:
            return len(self)
        if not 0 <= size <= len(self):
            raise ProofInvalid(f"the tree has {len(self)} leaves and not yet {size}", remedy=_CALL)
        return size


def root_from(node: Node, size: int) -> bytes:
    """Root of a tree of `size` >= 0 leaves from its complete nodes."""
    return _subtree(node, (size - 1).bit_length(), 0, size) if size else EMPTY_ROOT


def inclusion_proof_from(node: Node, index: int, size: int) -> list[bytes]:
    """PATH(index, D[size]) of RFC 9162, 2.1.3.1, from complete nodes. Raises ProofInvalid unless 0 <= index < size."""
    if not 0 <= index < size:
        raise ProofInvalid(f"a tree of {size} leaves has none at {index}", remedy=_CALL)
    return _path(node, 0, index, size)


def consistency_proof_from(node: Node, first: int, second: int) -> list[bytes]:
    """As `MerkleTree.consistency_proof`, from complete nodes. Raises ProofInvalid unless 0 <= first <= second."""
    if not 0 <= first <= second:
        raise ProofInvalid(f"a tree of {second} leaves does not extend one of {first}", remedy=_CALL)
    if first in (0, second):
        return []
    # The last complete subtree of the first tree is a node of both; its path in the second leads to both roots.
    level = _trailing_zeros(first)
    index = (first >> level) - 1
    path = _path(node, level, index, second)
    return [node(level, index), *path] if index else path


def verify_inclusion(index: int, size: int, leaf_hash: bytes, proof: Sequence[bytes], root: bytes) -> None:
    """Check that the tree of `size` leaves with this root has this leaf at `index` (RFC 9162, 2.1.3.2).

    Raises:
        ProofInvalid: not 0 <= index < size, another number of hashes than such a proof has, or something is no hash.
        RootMismatch: the proof leads to another root.
    """
    if not 0 <= index < size:
        raise ProofInvalid(f"a tree of {size} leaves has none at {index}", remedy=_ASK)
    inner, border = _proof_shape(index, size)
    _check_length(proof, inner + border)
    node = _checked_hash(leaf_hash, "the leaf's hash")
    for level, sibling in enumerate(proof[:inner]):
        node = node_hash(sibling, node) if index >> level & 1 else node_hash(node, sibling)
    for sibling in proof[inner:]:
        node = node_hash(sibling, node)
    if node != root:
        raise _mismatch(f"the proof for the leaf {index} of {size} leads to another root", node, root)


def verify_consistency(first: int, second: int, first_root: bytes, second_root: bytes, proof: Sequence[bytes]) -> None:
    """Check that the tree of `second` leaves begins with the leaves of that of `first` (RFC 9162, 2.1.4.2).

    Trees of the same size need the same root and an empty proof. Nothing is proven about the empty tree: every tree
    extends it, so first = 0 is refused.

    Raises:
        ProofInvalid: not 0 < first <= second, another number of hashes than such a proof has, or something is no hash.
        RootMismatch: the proof leads to another first or second root.
    """
    if not 0 < first <= second:
        raise ProofInvalid(f"nothing can prove that a tree of {second} leaves extends one of {first}", remedy=_ASK)
    if first == second:
        _check_length(proof, 0)
        if first_root != second_root:
            raise _mismatch(f"two trees of {first} leaves have different roots", second_root, first_root)
        return
    shift = _trailing_zeros(first)
    inner, border = _proof_shape(first - 1, second)
    inner -= shift
    start = 0 if first == 1 << shift else 1
    _check_length(proof, start + inner + border)
    old = new = proof[0] if start else _checked_hash(first_root, "the first root")
    for level, sibling in enumerate(proof[start : start + inner], start=shift):
        if (first - 1) >> level & 1:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
        else:
            new = node_hash(new, sibling)
    for sibling in proof[start + inner :]:
        old, new = node_hash(sibling, old), node_hash(sibling, new)
    if old != first_root:
        raise _mismatch(f"the proof from {first} to {second} leaves leads to another first root", old, first_root)
    if new != second_root:
        raise _mismatch(f"the proof from {first} to {second} leaves leads to another second root", new, second_root)


def _path(node: Node, level: int, index: int, size: int) -> list[bytes]:
    path = []
    last = (size - 1) >> level
    while last:
        if index ^ 1 < last:  # complete, as the last one of a level may not be
            path.append(node(level, index ^ 1))
        elif index ^ 1 == last:
            path.append(_subtree(node, level, last, size))
        index >>= 1
        last >>= 1
        level += 1
    return path


def _subtree(node: Node, level: int, index: int, size: int) -> bytes:
    """Root of the leaves below a node that may not be complete in a tree of this size, but has some."""
    start, stop = index << level, (index + 1) << level
    if stop <= size:
        return node(level, index)
    roots = []
    while start < size:
        level = (size - start).bit_length() - 1
        roots.append(node(level, start >> level))
        start += 1 << level
    return _joined(roots)


def _subtrees(hashes: list[bytes]) -> list[tuple[bytes, int]]:
    """Roots and levels of the largest complete subtrees of these leaves, from the left."""
    found = []
    level = 0
    while hashes:
        if len(hashes) & 1:
            found.append((hashes[-1], level))
        # Calling node_hash would cost as much again as the hashing does. The one without a neighbour is left over.
        pairs = iter(hashes)
        hashes = [sha256(b"\x01" + left + right).digest() for left, right in zip(pairs, pairs, strict=False)]
        level += 1
    return found[::-1]


def _joined(roots: Sequence[bytes]) -> bytes:
    root = roots[-1]
    for left in reversed(roots[:-1]):
        root = node_hash(left, root)
    return root


def _proof_shape(index: int, size: int) -> tuple[int, int]:
    """How many hashes of a leaf's proof lie below its path's meeting with the right edge, and how many above."""
    inner = (index ^ (size - 1)).bit_length()
    return inner, (index >> inner).bit_count()


def _trailing_zeros(number: int) -> int:
    return (number & -number).bit_length() - 1


def _check_length(proof: Sequence[bytes], expected: int) -> None:
    if len(proof) != expected:
        raise ProofInvalid(f"the proof has {len(proof)} hashes instead of {expected}", remedy=_ASK)
    for part in proof:
        _checked_hash(part, "a part of the proof")


def _checked_hash(content: bytes, what: str) -> bytes:
    if len(content) != HASH_SIZE:
        raise ProofInvalid(f"{what} has {len(content)} bytes instead of {HASH_SIZE}", remedy=_ASK)
    return content


def _mismatch(what: str, calculated: bytes, expected: bytes) -> RootMismatch:
    return RootMismatch(what, remedy=_ASK, calculated=calculated, expected=expected)
