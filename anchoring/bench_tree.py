"""What a Merkle tree in memory costs, for each number of leaves: its root, a proof, the proof's verification, memory.

| figure | what is in it |
|---|---|
| root | from n entries of 32 bytes to their root, no node kept: 2n - 1 calls of SHA-256 |
| tree | the same into a `MerkleTree`, which keeps every node and gives proofs |
| inclusion | one proof from that tree, the average over places all over it |
| verification | one proof, with its entry's hash and without a signature |
| hashlib | beside a root and a verification: as many calls of SHA-256, and nothing else |
| memory | what the tree adds to a process of its own, at its peak |

A call is `hashlib.sha256(message).digest()` on a message that is there already and as long as the tree's: 33 bytes for
a leaf, 65 for a node. Seconds are processor time, the least of several turns. Every root and every proof is checked.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from anchoring.bench_timing import in_steps, least, on_processor
from anchoring.merkle import HASH_SIZE, CompactRange, MerkleTree, leaf_hash, leaf_hashes, verify_inclusion
from common.errors import RunError

SAMPLE = 1_000
"""Proofs of which the average is taken."""

_LEAST_LEAVES = 10_000
_PART = 16_384
_STRIDE = 7_919  # a prime, so that steps of it come to places all over a tree
_LEAF, _NODE = bytes(1 + HASH_SIZE), bytes(1 + 2 * HASH_SIZE)


@dataclass(frozen=True)
class Sample:
    """A tree with its entries, and `SAMPLE` places in it with their proofs."""

    tree: MerkleTree
    entries: list[bytes]
    places: list[int]
    proofs: list[list[bytes]]

    @classmethod
    def of(cls, size: int) -> Sample:
        """A tree of `size` entries."""
        entries = [number.to_bytes(HASH_SIZE) for number in range(size)]
        tree = MerkleTree(map(leaf_hash, entries))
        places = spread(size)
        return cls(tree, entries, places, [tree.inclusion_proof(place) for place in places])


def measure_size(size: int, turns: int) -> dict[str, Any]:
    """The figures for a tree of `size` entries. Raises RunError when it has two roots, or its memory is not told."""
    sample = Sample.of(size)
    repeats = max(1, _LEAST_LEAVES // size)
    builds = [build(sample.entries) for _ in range(turns * repeats)]
    if {root for one in builds for root in one.roots} != {sample.tree.root()}:
        raise RunError("a tree has two roots", where=f"{size} leaves", remedy="report this error")
    root, tree, plain = (min(seconds) for seconds in zip(*(one.seconds for one in builds), strict=True))
    return {
        "n": size,
        "hashes": 2 * size - 1,
        "root_ms": round(1e3 * root, 4),
        "tree_ms": round(1e3 * tree, 4),
        "hashlib_ms": round(1e3 * plain, 4),
        "root_ratio": round(root / plain, 4),
        "tree_ratio": round(tree / plain, 4),
        **proof_figures(sample, turns),
        "memory_mb": round(tree_bytes(size) / 1e6, 2),
    }


@dataclass(frozen=True)
class Build:
    """A tree's root as it was streamed and as it was kept; the seconds of both, and those of plain hashing."""

    roots: tuple[bytes, bytes]
    seconds: list[float]


def build(entries: list[bytes]) -> Build:
    """Build a tree a part at a time, each part in both ways and then hashed plainly: what disturbs one disturbs all."""
    streamed, kept = CompactRange(), MerkleTree()

    def works(start: int) -> Sequence[Callable[[], None]]:
        part = entries[start : start + _PART]
        nodes = len(part) - (1 if start + _PART >= len(entries) else 0)
        return partial(_grow, streamed, part), partial(_grow, kept, part), partial(plain_hashing, len(part), nodes)

    seconds = in_steps(works(start) for start in range(0, len(entries), _PART))
    return Build((streamed.root(), kept.root()), seconds)


def spread(size: int) -> list[int]:
    """`SAMPLE` places all over a tree of `size` leaves."""
    return [step * _STRIDE % size for step in range(SAMPLE)]


def plain_hashing(leaves: int, nodes: int) -> None:
    """As many calls of SHA-256 as leaves and nodes take, without a tree."""
    for _ in range(leaves):
        sha256(_LEAF).digest()
    for _ in range(nodes):
        sha256(_NODE).digest()


def tree_bytes(size: int) -> int:
    """Memory that a tree of `size` leaves takes, measured in a process of its own. Raises RunError when that fails."""
    command = [sys.executable, "-m", "anchoring.bench_memory", str(size)]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunError(
            "the process that was to measure a tree's memory failed",
            where=f"{size} leaves",
            remedy="measure on Linux, which tells a process its peak",
        )
    return int(done.stdout)


def proof_figures(sample: Sample, turns: int) -> dict[str, Any]:
    """Microseconds of a proof, of its verification, and of as many plain hashes."""
    size, root = len(sample.tree), sample.tree.root()
    nodes = sum(map(len, sample.proofs))

    def prove() -> None:
        for place in sample.places:
            sample.tree.inclusion_proof(place)

    def verify() -> None:
        for place, proof in zip(sample.places, sample.proofs, strict=True):
            verify_inclusion(place, size, leaf_hash(sample.entries[place]), proof, root)

    works = (prove, verify, lambda: plain_hashing(SAMPLE, nodes))
    inclusion, verification, plain = least(turns, *map(on_processor, works))
    return {
        "inclusion_us": round(1e6 * inclusion / SAMPLE, 3),
        "verification_us": round(1e6 * verification / SAMPLE, 3),
        "verification_hashlib_us": round(1e6 * plain / SAMPLE, 3),
    }


def _grow(tree: CompactRange | MerkleTree, entries: list[bytes]) -> None:
    tree.extend(leaf_hashes(entries))
    tree.root()
