"""Tiles against the definition in C2SP tlog-tiles, and proofs from tiles against those of the tree in memory."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anchoring.errors import LogCorrupt, ProofInvalid, RootMismatch
from anchoring.merkle import MerkleTree, leaf_hash, root_of, verify_consistency, verify_inclusion
from anchoring.tiles import (
    LONGEST_ENTRY,
    RightEdge,
    Tile,
    TileReader,
    changed_tiles,
    consistency_proof,
    decode_entries,
    edge_tiles,
    encode_entries,
    entries_path,
    inclusion_proof,
    parse_path,
    tile_path,
    width_in,
)

LEAVES = [leaf_hash(number.to_bytes(4, "big")) for number in range(66_000)]
TREE = MerkleTree(LEAVES)
SIZES = (0, 1, 2, 255, 256, 257, 511, 512, 700, 1024, 65_535, 65_536, 65_537, 65_792, 66_000)


class Tiles:
    """The tiles of LEAVES by the definition alone; `altered` ones are put in their place."""

    def __init__(self) -> None:
        self.altered: dict[tuple[int, int], bytes] = {}
        self.read: list[tuple[int, int, int]] = []

    def __call__(self, level: int, index: int, width: int) -> bytes:
        self.read.append((level, index, width))
        return self.altered.get((level, index), defined(level, index, width))


def defined(level: int, index: int, width: int) -> bytes:
    span = 256**level
    first = index * 256
    if level == 0:
        return b"".join(LEAVES[first : first + width])
    return b"".join(root_of(LEAVES[(first + i) * span : (first + i + 1) * span]) for i in range(width))


def test_paths_are_written_as_the_specification_says() -> None:
    assert tile_path(0, 1234067) == "tile/0/x001/x234/067"
    assert tile_path(3, 0, 17) == "tile/3/000.p/17"
    assert tile_path(63, 1000, 255) == "tile/63/x001/000.p/255"
    assert entries_path(1234067, 1) == "tile/entries/x001/x234/067.p/1"
    assert entries_path(999) == "tile/entries/999"


@given(st.integers(0, 63), st.integers(0, 2**56), st.integers(1, 256))
def test_a_path_reads_back_as_its_tile(level: int, index: int, width: int) -> None:
    assert parse_path(tile_path(level, index, width)) == Tile(level, index, width)
    assert parse_path(entries_path(index, width)) == Tile(0, index, width)


@pytest.mark.parametrize(
    "path",
    ["checkpoint", "tile/0", "tile/entries", "tile/0/0", "tile/00/000", "tile/64/000", "tile/-1/000", "/tile/0/000"],
)
def test_other_paths_are_no_tiles(path: str) -> None:
    assert parse_path(path) is None


@pytest.mark.parametrize(
    "name", ["000.p/256", "000.p/0", "000.p/01", "x000/001", "001/000", "x001", "000/", ".000.part"]
)
def test_other_names_are_no_tiles(name: str) -> None:
    assert parse_path(f"tile/0/{name}") is None
    assert parse_path(f"tile/entries/{name}") is None


@pytest.mark.parametrize(("level", "index", "width"), [(-1, 0, 1), (64, 0, 1), (0, -1, 1), (0, 0, 0), (0, 0, 257)])
def test_what_no_tile_has_is_refused(level: int, index: int, width: int) -> None:
    with pytest.raises(ValueError, match="no tile"):
        tile_path(level, index, width)


def test_the_example_of_the_specification_holds() -> None:
    assert edge_tiles(70_000) == [Tile(0, 273, 112), Tile(1, 1, 17), Tile(2, 0, 1)]
    assert edge_tiles(256) == [Tile(1, 0, 1)]
    assert edge_tiles(0) == []
    full = [tile for tile in changed_tiles(0, 70_000) if tile.width == 256]
    assert [sum(tile.level == level for tile in full) for level in range(3)] == [273, 1, 0]


@given(st.integers(0, 200_000), st.integers(0, 5_000))
def test_changed_tiles_are_those_that_the_larger_tree_has_more(old: int, more: int) -> None:
    def all_tiles(size: int) -> set[Tile]:
        tiles = {
            Tile(level, at, min(256, (size >> 8 * level) - at * 256))
            for level in range(4)
            for at in range(((size >> 8 * level) + 255) // 256)
        }
        assert all(tile.stands_in(size) for tile in tiles)
        return tiles

    changed = changed_tiles(old, old + more)
    assert set(changed) == all_tiles(old + more) - all_tiles(old)
    assert changed == sorted(changed)
    assert {tile for tile in all_tiles(old) if tile.width < 256} == set(edge_tiles(old))


def test_a_tile_stands_in_a_tree_with_its_own_width_only() -> None:
    assert Tile(0, 1, 44).stands_in(300)
    assert not Tile(0, 1, 43).stands_in(300)
    assert not Tile(0, 1, 256).stands_in(300)
    assert not Tile(0, 2, 1).stands_in(300)
    assert width_in(300, 0, 5) == 0


@given(st.lists(st.binary(max_size=40), max_size=256))
def test_entries_read_back(entries: list[bytes]) -> None:
    assert decode_entries(encode_entries(entries), len(entries)) == entries


def test_an_entry_takes_at_most_what_its_length_can_say() -> None:
    longest = bytes(LONGEST_ENTRY)
    assert decode_entries(encode_entries([longest]), 1) == [longest]
    with pytest.raises(ValueError, match="65535"):
        encode_entries([longest + b"x"])


def test_a_bundle_that_is_cut_or_goes_on_is_refused() -> None:
    bundle = encode_entries([b"one", b"", b"three"])
    for bad in [bundle[:at] for at in range(len(bundle))] + [bundle + b"\x00", bundle + b"\x00\x00"]:
        with pytest.raises(LogCorrupt):
            decode_entries(bad, 3)
    for width in (0, 2, 4):
        with pytest.raises(LogCorrupt):
            decode_entries(bundle, width)


@pytest.mark.parametrize("size", SIZES)
def test_the_right_edge_has_the_tree_s_root(size: int) -> None:
    tiles = Tiles()
    edge = RightEdge.read(size, tiles)
    assert edge.root() == TREE.root(size)
    assert tiles.read == [(tile.level, tile.index, tile.width) for tile in edge_tiles(size)]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 900), min_size=1, max_size=6))
def test_an_edge_grows_by_the_changed_tiles_and_their_defined_content(steps: list[int]) -> None:
    edge = RightEdge(0)
    for step in steps:
        old = edge.size
        edge, contents = edge.grown(LEAVES[old : old + step])
        assert edge == RightEdge.read(edge.size, defined)
        assert list(contents) == changed_tiles(old, old + step)
        assert all(contents[tile] == defined(tile.level, tile.index, tile.width) for tile in contents)


@pytest.mark.parametrize("size", SIZES[1:])
def test_proofs_from_tiles_are_those_of_the_tree_in_memory(size: int) -> None:
    reader = TileReader.open(size, TREE.root(size), defined)
    for other in {1, size // 3, size // 2, size - 1, size} - {0}:
        assert reader.root(other) == TREE.root(other)
        assert reader.consistency_proof(other, size) == TREE.consistency_proof(other, size)
        assert reader.inclusion_proof(other - 1, size) == TREE.inclusion_proof(other - 1, size)
        assert reader.inclusion_proof(other // 2, other) == TREE.inclusion_proof(other // 2, other)


def test_proofs_without_a_root_convince_who_has_it() -> None:
    proof = inclusion_proof(300, 66_000, defined)
    verify_inclusion(300, 66_000, LEAVES[300], proof, TREE.root())
    verify_consistency(700, 66_000, TREE.root(700), TREE.root(), consistency_proof(700, 66_000, defined))


def test_an_inclusion_proof_reads_only_the_tiles_on_its_way() -> None:
    tiles = Tiles()
    inclusion_proof(300, 66_000, tiles)
    assert sorted(tiles.read) == [(0, 1, 256), (0, 257, 208), (1, 0, 256), (1, 1, 1), (2, 0, 1)]


@pytest.mark.parametrize(("level", "index"), [(0, 1), (1, 0)])
def test_an_altered_full_tile_is_named(level: int, index: int) -> None:
    tiles = Tiles()
    good = tiles(level, index, 256)
    reader = TileReader.open(66_000, TREE.root(), tiles)
    for at in (0, 4000, len(good) - 1):
        tiles.altered[level, index] = good[:at] + bytes([good[at] ^ 128]) + good[at + 1 :]
        with pytest.raises(RootMismatch) as caught:
            reader.inclusion_proof(300, 66_000)
        assert caught.value.where == tile_path(level, index)
        assert (
            caught.value.calculated
            != caught.value.expected
            == root_of(LEAVES[256 * index : 256 * index + 256**2][: 256 ** (level + 1)])
        )


@pytest.mark.parametrize("tile", edge_tiles(66_000))
def test_an_altered_partial_tile_does_not_open(tile: Tile) -> None:
    tiles = Tiles()
    good = tiles(tile.level, tile.index, tile.width)
    tiles.altered[tile.level, tile.index] = bytes([good[0] ^ 1]) + good[1:]
    with pytest.raises(RootMismatch) as caught:
        TileReader.open(66_000, TREE.root(), tiles)
    assert caught.value.expected == TREE.root()


@pytest.mark.parametrize("change", [lambda tile: tile[:-1], lambda tile: tile[:-32], lambda tile: tile + bytes(32)])
def test_a_tile_of_another_length_is_named(change: object) -> None:
    tiles = Tiles()
    tiles.altered[0, 1] = change(tiles(0, 1, 256))  # type: ignore[operator]
    with pytest.raises(LogCorrupt, match="tile/0/001"):
        inclusion_proof(300, 66_000, tiles)


def test_nothing_is_read_outside_the_tree() -> None:
    reader = TileReader.open(700, TREE.root(700), defined)
    with pytest.raises(ProofInvalid):
        reader.tile(0, 3)
    with pytest.raises(ProofInvalid):
        reader.root(701)
    with pytest.raises(ProofInvalid):
        reader.inclusion_proof(700, 700)
    with pytest.raises(ProofInvalid):
        reader.consistency_proof(3, 701)


def test_full_tiles_come_from_the_top() -> None:
    reader = TileReader.open(66_000, TREE.root(), defined)
    tiles = list(reader.full_tiles())
    assert tiles[0] == Tile(1, 0, 256)
    assert tiles[1:] == [Tile(0, index, 256) for index in range(257)]
