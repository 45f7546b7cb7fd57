"""What one exchange of messages costs over real processes: Flower's own SuperNodes beside DJMS's sites, in one run.

    python tests/benchmarks/exchange_time.py            about four minutes on 2 cores
    python tests/benchmarks/exchange_time.py 10         with ten rounds each

Both train the same tables of five synthetic offices, privately and under secure aggregation. The first are
`flower-superlink` and `flower-supernode` as they are, without TLS and with the SuperLink's memory in RAM; the second
`djms server start` and `djms client start`, with TLS, keys, a database on disk and anchoring. The time of a round over
its exchanges, first round left out (it makes the set-up), is an exchange with its share of the work at both ends.
"""

from __future__ import annotations

import csv
import statistics
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

EXCHANGES = 2
"""Train, take the masks off: no site is missing."""


def tables_in(folder: Path) -> dict[str, Path]:
    """Five offices, 400 people in all."""
    from common.settings_loading import load_settings
    from data.generator import generate, write_raw
    from data.partition import partition
    from data.preparation import prepare, raw_files_of

    settings = load_settings(["data.pairs_per_candidate=10"], environment={})
    write_raw(generate(candidates=400, companies=100, seed=7), folder / "raw")
    dataset = prepare(raw_files_of(settings, folder / "raw"), settings)
    return partition(dataset.table, dataset.info, settings.offices, folder / "federated")


def seconds_in(rounds: Path) -> list[float]:
    """Seconds an exchange took in each finished round after the first."""
    with rounds.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["status"] == "finished"]
    return [float(row["seconds"]) / EXCHANGES for row in rows[1:]]


def with_flowers_own(folder: Path, tables: dict[str, Path], rounds: int) -> list[float]:
    """Flower's processes, as they are."""
    from common.model import ModelCard
    from common.settings_loading import load_settings
    from federation.deployment import run_deployment
    from server.job import Job

    given = [f"federated.rounds={rounds}", "anchoring.enabled=false", f"paths.ledger_dir={folder / 'ledgers'}"]
    settings = load_settings(given, environment={})
    card = ModelCard("rule", settings.hidden, synthetic=True)
    job = Job(settings, tuple(sorted(tables)), card, folder / "flower")
    run_deployment(job, tables, insecure=True, on_rounds=lambda _: None)
    return seconds_in(job.output / "rounds.csv")


def with_ours(folder: Path, tables: dict[str, Path], rounds: int) -> list[float]:
    """DJMS's processes."""
    from live_federation import live_federation

    with live_federation(folder / "live", tables) as live:
        live.start_server()
        live.start_sites()
        run = live.submit("--federated.rounds", rounds)
        live.result(run, seconds=120 + 60 * rounds)
        return seconds_in(live.output(run) / "rounds.csv")


def shown(name: str, seconds: list[float]) -> str:
    """One line."""
    low, high = min(seconds), max(seconds)
    return f"{name:<42}{statistics.median(seconds):6.2f} s   ({low:.2f}-{high:.2f}, {len(seconds)} rounds)"


def main(rounds: int) -> None:
    """Measure both and print."""
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        tables = tables_in(folder)
        before = with_flowers_own(folder, tables, rounds)
        after = with_ours(folder, tables, rounds)
    print("one exchange, five sites, synthetic people")
    print(shown("flower-superlink, flower-supernode", before))
    print(shown("djms server start, djms client start", after))
    print(f"{'ratio':<42}{statistics.median(after) / statistics.median(before):6.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 6)
