"""A process of its own that builds a tree and says how much memory that took.

    python -m anchoring.bench_memory LEAVES

It writes one number: the most that the process ever had in memory while it built the tree, less what it had before, in
bytes. That is what the system had to give, with what the allocator keeps for itself, which `tracemalloc` does not see.
Leaves are made one by one, so that they count only as the tree keeps them. Linux's `/proc` tells, and not `getrusage`,
whose peak a new process inherits from the one that started it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from anchoring.merkle import MerkleTree, leaf_hash


def tree_bytes(leaves: int) -> int:
    """Bytes that a tree of so many leaves adds to this process at its peak."""
    before = _status("VmRSS")
    tree = MerkleTree(leaf_hash(number.to_bytes(32)) for number in range(leaves))
    peak = _status("VmHWM")
    tree.root()  # the tree is alive up to here
    return max(0, peak - before)


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    sys.stdout.write(f"{tree_bytes(int(sys.argv[1]))}\n")
