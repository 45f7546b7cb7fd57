"""`djms anchor bench` measures what it says, over trees, logs and receipts that are right."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from anchoring import bench, bench_log, bench_records, bench_tree, merkle
from anchoring.bench_cli import bench as command
from anchoring.bench_cli import remarks
from anchoring.bench_timing import in_new_folder, least, on_processor
from anchoring.errors import ProofInvalid
from anchoring.merkle import CompactRange, MerkleTree, leaf_hash, root_of, verify_inclusion
from anchoring.record_release import RecordRelease
from common.cli import DjmsCommand, new_group, run
from common.errors import RunError

RECORDS = 200


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    app = new_group("Anchoring.")
    app.callback()(lambda: None)
    app.command("bench", cls=DjmsCommand)(command)
    code = run(app, ["bench", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(scope="module")
def small() -> Iterator[None]:
    """Spare the disk: fewer records and appends than in a measurement that counts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "measure_commit", partial(bench_records.measure_commit, records=RECORDS))
        patch.setattr(bench_log, "APPENDS", 5)
        yield


@pytest.fixture(scope="module")
def quick(small: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("bench")
    data = command(folder, turns=1, quick=True).data
    assert not list(folder.iterdir())
    parsed: dict[str, Any] = json.loads(json.dumps(data, allow_nan=False))
    return parsed


def entries(count: int) -> list[bytes]:
    return [number.to_bytes(32) for number in range(count)]


def counted(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, real: Callable[..., Any]) -> list[int]:
    """Let a module call `real` under a name; the list gets the length of what each call was given."""
    lengths: list[int] = []

    def counting(content: Any) -> Any:
        lengths.append(len(content) if isinstance(content, bytes) else 0)
        return real(content)

    monkeypatch.setattr(module, name, counting)
    return lengths


def test_every_figure_is_measured_and_has_its_limit_beside_it(quick: dict[str, Any]) -> None:
    assert quick["limits"] == bench.LIMITS
    assert quick["within_limits"].keys() == bench.LIMITS.keys()
    figures = {name: value for name, value in quick.items() if isinstance(value, float | int)}
    assert figures.keys() >= bench.LIMITS.keys() - {"memory_mb"}
    difference = figures.pop("beyond_signature_us")  # of two figures: in one turn on a busy machine it may be anything
    assert difference == pytest.approx(quick["receipt_verification_us"] - quick["signature_us"], abs=0.01)
    assert all(value > 0 for value in figures.values())
    for name, limit in bench.LIMITS.items():
        value = quick[name]
        keeps = None if value is None else value >= limit if name in quick["at_least"] else value <= limit
        assert quick["within_limits"][name] == keeps


def test_a_quick_run_leaves_out_what_takes_long_and_says_so(quick: dict[str, Any]) -> None:
    assert [row["n"] for row in quick["table"]] == [100, 1_000, 10_000]
    assert quick["memory_mb"] is None
    assert quick["within_limits"]["memory_mb"] is None


def test_the_figures_of_a_row_fit_each_other(quick: dict[str, Any]) -> None:
    for row in quick["table"]:
        assert row["hashes"] == 2 * row["n"] - 1
        assert row["root_ratio"] == pytest.approx(row["root_ms"] / row["hashlib_ms"], rel=0.01)
        # Nothing can be had for less than its hashes; a busy machine is given some room.
        assert row["root_ratio"] > 0.7
        assert row["tree_ratio"] > 0.7
        assert row["verification_us"] > 0.7 * row["verification_hashlib_us"] > 0
        assert row["inclusion_us"] > 0
    assert quick["root_ratio"] == max(row["root_ratio"] for row in quick["table"])
    assert quick["inclusion_us"] == quick["table"][-1]["inclusion_us"]


def test_what_is_compared_is_plausible(quick: dict[str, Any]) -> None:
    assert quick["signature_us"] > quick["verification_us"]
    parts = quick["receipt_reading_us"] + quick["receipt_verification_us"]
    assert quick["receipt_us"] == pytest.approx(parts, abs=0.01)
    assert quick["batch_entries_per_second"] > quick["appends_per_second"]
    assert quick["commit_seconds"] > quick["commit_hashing_seconds"] > 0
    assert quick["commit_records"] == RECORDS
    assert quick["commit_bytes"] > 1_000 * RECORDS


def test_a_root_and_what_stands_beside_it_make_the_same_calls_of_sha256(monkeypatch: pytest.MonkeyPatch) -> None:
    for size in (1, 2, 100, 1_000, 1_025):
        ours = counted(monkeypatch, merkle, "sha256", hashlib.sha256)
        root_of([leaf_hash(entry) for entry in entries(size)])
        plain = counted(monkeypatch, bench_tree, "sha256", hashlib.sha256)
        bench_tree.plain_hashing(size, size - 1)
        assert len(ours) == 2 * size - 1
        assert sorted(ours) == sorted(plain)


def test_a_tree_built_in_parts_is_hashed_plainly_as_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_tree, "_PART", 1_024)
    plain = counted(monkeypatch, bench_tree, "sha256", hashlib.sha256)
    built = bench_tree.build(entries(2_500))
    assert built.roots == (root_of(map(leaf_hash, entries(2_500))),) * 2
    assert (plain.count(33), plain.count(65), len(plain)) == (2_500, 2_499, 4_999)


def test_a_proof_is_verified_with_as_many_hashes_as_stand_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    beside: list[tuple[int, int]] = []
    monkeypatch.setattr(bench_tree, "plain_hashing", lambda leaves, nodes: beside.append((leaves, nodes)))
    sample = bench_tree.Sample.of(100)
    bench_tree.proof_figures(sample, 1)
    root = sample.tree.root()
    ours = counted(monkeypatch, merkle, "sha256", hashlib.sha256)
    for place, proof in zip(sample.places, sample.proofs, strict=True):
        verify_inclusion(place, 100, leaf_hash(sample.entries[place]), proof, root)
    assert beside == [(ours.count(33), ours.count(65))]


def test_places_lie_all_over_the_tree() -> None:
    assert set(bench_tree.spread(100)) == set(range(100))
    for size in bench.SIZES[1:]:
        places = bench_tree.spread(size)
        assert len(set(places)) == 1_000
        assert {place * 10 // size for place in places} == set(range(10))


def test_a_wrong_root_is_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CompactRange, "root", lambda self: bytes(32))
    with pytest.raises(RunError, match="two roots"):
        bench_tree.measure_size(100, 1)


def test_a_wrong_proof_is_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MerkleTree, "inclusion_proof", lambda self, place: [bytes(32)])
    with pytest.raises(ProofInvalid):
        bench_tree.measure_size(100, 1)


def test_memory_is_that_of_the_tree_and_not_of_its_leaves() -> None:
    small, large = bench_tree.tree_bytes(20_000), bench_tree.tree_bytes(120_000)
    assert 55 * 100_000 < large - small < 100 * 100_000  # 64 bytes a leaf; a list of its hashes would add 73


def test_a_measuring_process_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(RunError, match="memory"):
        bench_tree.tree_bytes(100)


def test_the_bare_loop_syncs_as_often_as_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs = counted(monkeypatch, os, "fsync", lambda handle: None)
    seen = {}
    for work in (bench_log.append_singly, bench_log.append_reopened, bench_log.write_singly):
        for appends in (10, 30):
            monkeypatch.setattr(bench_log, "APPENDS", appends)
            syncs.clear()
            in_new_folder(tmp_path, work)()
            seen[work, appends] = len(syncs)
        assert seen[work, 30] - seen[work, 10] == 20 * 6  # three files and three folders each
    assert seen[bench_log.write_singly, 30] == 30 * 6


def test_a_bare_batch_writes_and_syncs_what_the_log_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, sign = bench_log._new_log(tmp_path / "log")
    syncs = counted(monkeypatch, os, "fsync", lambda handle: None)
    store.append(bench_log._entries(1_000), sign)
    store.close()
    ours = len(syncs)
    files = bench_log.files_of(store)
    syncs.clear()
    bench_log.write_batch(files, tmp_path / "bare")
    assert ours - 3 <= len(syncs) <= ours
    for path, content in files:
        assert (tmp_path / "bare" / path).read_bytes() == content == (tmp_path / "log" / path).read_bytes()
    assert {path.parts[0] for path, _ in files} == {"checkpoint", "tile"}


def test_a_commit_that_was_measured_has_every_receipt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verified = []
    real = RecordRelease.receipt
    monkeypatch.setattr(RecordRelease, "receipt", lambda self, row: verified.append(row) or real(self, row))
    found = bench_records.measure_commit(tmp_path, 1, records=30)
    assert found["commit_records"] == 30
    assert verified == list(range(1, 31))
    assert not list(tmp_path.iterdir())


def test_works_take_turns_and_the_least_counts() -> None:
    done: list[str] = []
    seconds = {"a": iter((3.0, 1.0, 2.0)), "b": iter((5.0, 6.0, 4.0))}

    def work(name: str) -> float:
        done.append(name)
        return next(seconds[name])

    assert least(3, partial(work, "a"), partial(work, "b")) == [1.0, 4.0]
    assert done == ["a", "b"] * 3


def test_waiting_is_no_processor_time() -> None:
    assert on_processor(lambda: time.sleep(0.2))() < 0.1


@pytest.mark.usefixtures("small")
def test_the_text_says_which_limits_are_kept_and_which_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    generous = {"root_ratio": 1e9, "verification_us": 1e9, "appends_per_second": 1e-9}
    for name in bench.LIMITS:
        absurd = math.inf if name in bench.AT_LEAST else 1e-9
        monkeypatch.setitem(bench.LIMITS, name, generous.get(name, absurd))
    code, out, _ = call(capsys, "--quick", "--turns", 1, "--folder", tmp_path)
    assert code == 0
    verdicts = re.findall(r"[≤≥] +\S+ +(kept|NOT KEPT|not measured)", out)
    assert verdicts == ["kept", "NOT KEPT", "kept", *["NOT KEPT"] * 2, "kept", "NOT KEPT", "not measured"]
    assert "…" not in out
    assert "bare files either" not in out


@pytest.mark.usefixtures("small")
def test_a_disk_that_is_too_slow_by_itself_is_named(quick: dict[str, Any]) -> None:
    sentence = "does not reach that limit for appends with bare files either"
    for bare, named in ((199.0, True), (201.0, False)):
        assert (sentence in remarks({**quick, "appends_bare_per_second": bare})) is named


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, "--quick", "--folder", tmp_path / "nowhere")
    assert (code, out) == (1, "")
    assert "nowhere" in err
