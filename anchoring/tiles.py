"""A log's tree and entries cut into tiles, in the layout of C2SP tlog-tiles (https://c2sp.org/tlog-tiles).

A tile of level L holds up to 256 hashes: leaf hashes at level 0, above it the roots of full tiles of the level below.
It is full, and then never changes, or partial and the last of its level: a tree of s leaves has s >> 8L hashes at
level L. An entry bundle holds the entries of a level 0 tile, each behind its length as a big-endian uint16.

    tile/<L>/<N>         tile/<L>/<N>.p/<W>         the Nth tile of level L, full or W hashes wide
    tile/entries/<N>     tile/entries/<N>.p/<W>     its entries; N = 1234067 is written x001/x234/067

Rules: pure, no files; the partial tiles of a tree, its `RightEdge`, determine its root; `TileReader` believes a full
tile only when its root stands in the tile above, and so only what hangs together up to the root.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from anchoring.errors import LogCorrupt, ProofInvalid, RootMismatch
from anchoring.merkle import (
    HASH_SIZE,
    MerkleTree,
    complete_root,
    consistency_proof_from,
    inclusion_proof_from,
    root_from,
)

WIDTH = 256
"""Hashes of a full tile, and entries of a full bundle."""

LONGEST_ENTRY = 0xFFFF
"""Bytes of an entry; a bundle has no room for a larger length."""

ReadTile: TypeAlias = Callable[[int, int, int], bytes]
"""Gives the bytes of the tile of a level, an index and a width."""

_HEIGHT = 8
_MOST_KEPT = 1024
_PATH = re.compile(r"tile/(entries|0|[1-9][0-9]?)/((?:x[0-9]{3}/)*[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?")
_RESTORE = "restore the log from a copy that fits its checkpoint"


@dataclass(frozen=True, order=True)
class Tile:
    """Place of a tile, or at level 0 of its entries too: a level from 0 to 63, an index and a width from 1 to 256."""

    level: int
    index: int
    width: int

    def __post_init__(self) -> None:
        """Refuse what no tile has, with ValueError."""
        if not (0 <= self.level <= 63 and self.index >= 0 and 1 <= self.width <= WIDTH):
            raise ValueError(f"no tile has level {self.level}, index {self.index} and width {self.width}")

    def stands_in(self, size: int) -> bool:
        """Whether a tree of `size` leaves has this very tile, with this width."""
        return self.width == width_in(size, self.level, self.index)


def width_in(size: int, level: int, index: int) -> int:
    """Hashes that the tile has in a tree of `size` leaves, 0 when it has no such tile."""
    return min(WIDTH, max(0, (size >> _HEIGHT * level) - index * WIDTH))


def tile_path(level: int, index: int, width: int = WIDTH) -> str:
    """Path of a tile below the log's folder. Raises ValueError for what no tile has."""
    tile = Tile(level, index, width)
    return f"tile/{level}/{_numbered(tile)}"


def entries_path(index: int, width: int = WIDTH) -> str:
    """Path of an entry bundle below the log's folder. Raises ValueError for what no bundle has."""
    return f"tile/entries/{_numbered(Tile(0, index, width))}"


def parse_path(path: str) -> Tile | None:
    """Read what `tile_path` or `entries_path` wrote; entries count as level 0. None for anything else."""
    match = _PATH.fullmatch(path)
    if match is None:
        return None
    kind, number, width = match.groups()
    index = int(number.replace("x", "").replace("/", ""))
    try:
        tile = Tile(0 if kind == "entries" else int(kind), index, WIDTH if width is None else int(width))
    except ValueError:
        return None
    canonical = entries_path(index, tile.width) if kind == "entries" else tile_path(tile.level, index, tile.width)
    return tile if canonical == path else None


def changed_tiles(old: int, new: int) -> list[Tile]:
    """Tiles that a tree of `new` leaves has and its beginning of `old` <= `new` leaves has not, from the bottom up."""
    tiles = []
    level = 0
    while (new >> _HEIGHT * level) > (old >> _HEIGHT * level):
        first, last = (old >> _HEIGHT * level) // WIDTH, ((new >> _HEIGHT * level) - 1) // WIDTH
        tiles += [Tile(level, index, width_in(new, level, index)) for index in range(first, last + 1)]
        level += 1
    return tiles


def edge_tiles(size: int) -> list[Tile]:
    """The partial tiles of a tree, from the bottom up; a level whose tiles are all full has none."""
    tiles = [(level, size >> _HEIGHT * level) for level in range((size.bit_length() + _HEIGHT - 1) // _HEIGHT)]
    return [Tile(level, count // WIDTH, count % WIDTH) for level, count in tiles if count % WIDTH]


def encode_entries(entries: Sequence[bytes]) -> bytes:
    """Bytes of a bundle, or of what is to be joined to one. Raises ValueError for an entry above LONGEST_ENTRY."""
    if any(len(entry) > LONGEST_ENTRY for entry in entries):
        raise ValueError(f"an entry has more than {LONGEST_ENTRY} bytes")
    return b"".join([len(entry).to_bytes(2, "big") + entry for entry in entries])


def decode_entries(bundle: bytes, width: int) -> list[bytes]:
    """Read the `width` entries of a bundle. Raises LogCorrupt when it holds fewer, more, or part of one."""
    entries: list[bytes] = []
    at = 0
    while at + 2 <= len(bundle) and len(entries) < width:
        start = at + 2
        at = start + int.from_bytes(bundle[at:start], "big")
        entries.append(bundle[start:at])
    if at != len(bundle) or len(entries) != width:
        raise LogCorrupt(f"the bundle does not hold {width} whole entries and nothing else", remedy=_RESTORE)
    return entries


@dataclass(frozen=True)
class RightEdge:
    """Content of the partial tiles of a tree, from level 0 up: all that it takes to know its root and to grow it."""

    size: int
    levels: tuple[bytes, ...] = ()

    @classmethod
    def read(cls, size: int, read_tile: ReadTile) -> RightEdge:
        """Read the partial tiles of a tree; compare its `root` before believing it. Raises LogCorrupt for its form."""
        levels = [b""] * ((size.bit_length() + _HEIGHT - 1) // _HEIGHT)
        for tile in edge_tiles(size):
            levels[tile.level] = _content(read_tile, tile)
        return cls(size, tuple(levels))

    def root(self) -> bytes:
        """Root of the tree."""
        return root_from(self._node, self.size)

    def grown(self, leaf_hashes: Sequence[bytes]) -> tuple[RightEdge, dict[Tile, bytes]]:
        """Return the edge with more leaves, and the content of each tile that `changed_tiles` names."""
        size = self.size + len(leaf_hashes)
        contents: dict[Tile, bytes] = {}
        levels = list(self.levels)
        hashes = b"".join(leaf_hashes)
        level = 0
        while hashes:
            if level == len(levels):
                levels.append(b"")
            first = (self.size >> _HEIGHT * level) // WIDTH
            whole = levels[level] + hashes
            parts = [whole[at : at + WIDTH * HASH_SIZE] for at in range(0, len(whole), WIDTH * HASH_SIZE)]
            contents |= {Tile(level, first + at, len(part) // HASH_SIZE): part for at, part in enumerate(parts)}
            levels[level] = parts.pop() if len(parts[-1]) < WIDTH * HASH_SIZE else b""
            hashes = b"".join([complete_root(part) for part in parts])
            level += 1
        return RightEdge(size, tuple(levels)), contents

    def _node(self, level: int, index: int) -> bytes:
        tile_level, height = divmod(level, _HEIGHT)
        return complete_root(_slice(self.levels[tile_level], (index << height) % WIDTH, 1 << height))


class TileReader:
    """A tree in tiles that somebody else keeps. Every tile is verified up to the root before a hash of it is used."""

    def __init__(self, edge: RightEdge, read_tile: ReadTile) -> None:
        self.edge = edge
        self._read_tile = read_tile
        self._verified: dict[tuple[int, int], bytes] = {}
        self._trees: dict[tuple[int, int], MerkleTree] = {}

    @classmethod
    def open(cls, size: int, root: bytes, read_tile: ReadTile) -> TileReader:
        """Read the right edge and verify it. Raises RootMismatch, or LogCorrupt for a tile that has not its length."""
        edge = RightEdge.read(size, read_tile)
        calculated = edge.root()
        if calculated != root:
            raise RootMismatch(
                f"the partial tiles of {size} entries lead to another root than the checkpoint's",
                remedy=_RESTORE,
                calculated=calculated,
                expected=root,
            )
        return cls(edge, read_tile)

    def tile(self, level: int, index: int) -> bytes:
        """Content of a verified tile.

        Raises:
            ProofInvalid: the tree has no such tile.
            RootMismatch: the tile, which `where` names, is not the one whose root stands in the tile above.
            LogCorrupt: it has not its length.
        """
        width = width_in(self.edge.size, level, index)
        if not width:
            raise ProofInvalid(
                f"a tree of {self.edge.size} leaves has no tile {index} at level {level}", remedy="ask within the tree"
            )
        if width < WIDTH:
            return self.edge.levels[level]
        known = self._verified.get((level, index))
        if known is not None:
            return known
        above = _slice(self.tile(level + 1, index // WIDTH), index % WIDTH, 1)
        content = _content(self._read_tile, Tile(level, index, WIDTH))
        calculated = complete_root(content)
        if calculated != above:
            raise RootMismatch(
                "the tile is not the one whose root stands in the tile above it",
                where=tile_path(level, index),
                remedy=_RESTORE,
                calculated=calculated,
                expected=above,
            )
        if len(self._verified) >= _MOST_KEPT:
            self._verified.clear()
        self._verified[level, index] = content
        return content

    def full_tiles(self) -> Iterator[Tile]:
        """All full tiles of the tree, from the top down."""
        for level in reversed(range(len(self.edge.levels))):
            for index in range((self.edge.size >> _HEIGHT * level) // WIDTH):
                yield Tile(level, index, WIDTH)

    def root(self, size: int) -> bytes:
        """Root of the first `size` leaves. Raises ProofInvalid for more than there are, and as `tile`."""
        return root_from(self._node, self._checked_size(size))

    def inclusion_proof(self, index: int, size: int) -> list[bytes]:
        """As `MerkleTree.inclusion_proof`; raises ProofInvalid for the same reasons, and as `tile`."""
        return inclusion_proof_from(self._node, index, self._checked_size(size))

    def consistency_proof(self, first: int, second: int) -> list[bytes]:
        """As `MerkleTree.consistency_proof`; raises ProofInvalid for the same reasons, and as `tile`."""
        return consistency_proof_from(self._node, first, self._checked_size(second))

    def _node(self, level: int, index: int) -> bytes:
        tile_level, height = divmod(level, _HEIGHT)
        place = (tile_level, (index << height) // WIDTH)
        tree = self._trees.get(place)
        if tree is None:
            content = self.tile(*place)
            if len(self._trees) >= _MOST_KEPT:
                self._trees.clear()
            tree = MerkleTree(content[at : at + HASH_SIZE] for at in range(0, len(content), HASH_SIZE))
            self._trees[place] = tree
        return tree.node(height, index % (WIDTH >> height))

    def _checked_size(self, size: int) -> int:
        if not 0 <= size <= self.edge.size:
            raise ProofInvalid(f"the log has {self.edge.size} entries and not yet {size}", remedy="ask within the log")
        return size


def inclusion_proof(index: int, size: int, read_tile: ReadTile) -> list[bytes]:
    """Proof from tiles that fit each other; whether they fit a root, its receiver verifies. Raises as `TileReader`."""
    return TileReader(RightEdge.read(size, read_tile), read_tile).inclusion_proof(index, size)


def consistency_proof(first: int, second: int, read_tile: ReadTile) -> list[bytes]:
    """Proof from tiles that fit each other; whether they fit a root, its receiver verifies. Raises as `TileReader`."""
    return TileReader(RightEdge.read(second, read_tile), read_tile).consistency_proof(first, second)


def _numbered(tile: Tile) -> str:
    groups = [f"{tile.index % 1000:03d}"]
    rest = tile.index // 1000
    while rest:
        groups.insert(0, f"x{rest % 1000:03d}")
        rest //= 1000
    return "/".join(groups) + ("" if tile.width == WIDTH else f".p/{tile.width}")


def _content(read_tile: ReadTile, tile: Tile) -> bytes:
    content = read_tile(tile.level, tile.index, tile.width)
    if len(content) != tile.width * HASH_SIZE:
        raise LogCorrupt(
            f"the tile has {len(content)} bytes instead of {tile.width * HASH_SIZE}",
            where=tile_path(tile.level, tile.index, tile.width),
            remedy=_RESTORE,
        )
    return content


def _slice(hashes: bytes, first: int, count: int) -> bytes:
    return hashes[first * HASH_SIZE : (first + count) * HASH_SIZE]
