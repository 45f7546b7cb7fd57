"""The site's privacy ledger: nothing recorded is lost, nothing above the budget allowed, no edit believed."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from client.ledger import Budget, BudgetExceeded, ConfirmationRefused, LedgerDamaged, LedgerUnavailable, PrivacyLedger
from common.errors import DjmsError, InputError
from privacy.accounting import MixedEvents, Spent, epsilon_rdp
from privacy.events import PrivacyEvent, events_from_json

DELTA = 1e-6
ROOT = Path(__file__).resolve().parents[2]
TRAINING = PrivacyEvent(
    mechanism="gaussian",
    unit="candidate",
    site="CPI_Verona",
    noise_multiplier=20.0,
    sampling_rate=1.0,
    steps=4,
    neighbouring_relation="add-or-remove-one",
    purpose="training",
    run="2026-01",
    round=1,
)
AMPLE = Budget(1000.0, DELTA)


def closed_form(events: Sequence[PrivacyEvent], delta: float, *, cross_checked: bool = True) -> Spent:
    """ρ-zCDP (Bun and Steinke 2016, proposition 1.3): quick; the largest site counts."""
    by_site: dict[str, float] = {}
    for event in events:
        rho = event.steps / (2 * event.noise_multiplier**2)
        by_site[event.site] = by_site.get(event.site, 0.0) + rho
    largest = max(by_site.values(), default=0.0)
    return Spent(largest + 2 * math.sqrt(largest * math.log(1 / delta)), delta)


def opened(path: Path, *, create: bool = False, **others: Any) -> PrivacyLedger:
    return PrivacyLedger.open(path, create=create, accountant=others.pop("accountant", closed_form), **others)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "privacy.sqlite"


@pytest.fixture
def full(path: Path) -> Path:
    """A ledger of four entries: two reservations, one confirmed, one more."""
    ledger = opened(path, create=True)
    first = ledger.reserve(TRAINING, AMPLE)
    ledger.reserve(replace(TRAINING, round=2), AMPLE)
    first.confirm(replace(TRAINING, steps=3))
    ledger.reserve(replace(TRAINING, round=3), AMPLE)
    return path


def seal_of(path: Path) -> Path:
    return path.with_name(path.name + ".head")


def forged(path: Path, *statements: str) -> None:
    """Do with the file what its triggers forbid, and put the triggers back."""
    with sqlite3.connect(path) as connection:
        triggers = list(connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"))
        for name, _ in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            connection.execute(statement)
        for _, sql in triggers:
            connection.execute(sql)
    connection.close()


def test_an_unconfirmed_reservation_counts_in_full_and_a_confirmed_one_as_executed(full: Path) -> None:
    ledger = opened(full)
    expected = closed_form([replace(TRAINING, steps=3 + 4 + 4)], DELTA).epsilon
    assert ledger.spent(DELTA).epsilon == pytest.approx(expected)
    assert [event["steps"] for event in ledger.export("2026-01")] == [3, 4, 4]
    assert ledger.export("another") == []
    exported = json.dumps(ledger.export("2026-01"))
    assert events_from_json(exported)[0] == replace(TRAINING, steps=3)


def test_a_ledger_is_made_only_when_asked_for_and_then_read_by_nobody_else(path: Path) -> None:
    with pytest.raises(InputError, match="there is no privacy ledger; put the site's ledger back"):
        opened(path)
    assert not list(path.parent.iterdir())
    opened(path, create=True).reserve(TRAINING, AMPLE)
    assert len(opened(path, create=True).entries()) == 1
    assert {stat.S_IMODE(file.stat().st_mode) for file in (path, seal_of(path))} == {0o600}
    assert sorted(path.parent.iterdir()) == [path, seal_of(path)]


def test_entries_are_canonical_json_and_numbered(full: Path) -> None:
    with sqlite3.connect(full) as connection:
        rows = list(connection.execute("SELECT sequence, event FROM entries ORDER BY sequence"))
    connection.close()
    assert [row[0] for row in rows] == [1, 2, 3, 4]
    assert all(rfc8785.dumps(json.loads(event)).decode() == event for _, event in rows)


def test_the_real_accountants_price_it_and_refuse_mixed_units_without_a_trace(path: Path) -> None:
    ledger = PrivacyLedger.open(path, create=True)
    sampled = replace(TRAINING, mechanism="poisson-sampled-gaussian", noise_multiplier=4.0, sampling_rate=0.2)
    ledger.reserve(sampled, Budget(1.0, DELTA))
    found = ledger.spent(DELTA)
    assert set(found.by_accountant) == {"rdp", "pld", "opacus"}
    assert found.epsilon == epsilon_rdp([sampled], DELTA)
    assert ledger.spent(DELTA) is found
    with pytest.raises(MixedEvents):
        ledger.reserve(replace(TRAINING, unit="site"), Budget(10.0, DELTA))
    assert len(ledger.entries()) == 1


def test_a_refusal_says_what_was_asked_what_is_left_and_until_when(path: Path) -> None:
    ledger = opened(path, create=True, accountant=counting_steps, clock=lambda: datetime(2026, 12, 31, 23, tzinfo=UTC))
    ledger.reserve(replace(TRAINING, steps=3), Budget(5.0, DELTA, date(2026, 12, 31)))
    with pytest.raises(BudgetExceeded) as refused:
        ledger.reserve(replace(TRAINING, steps=4, round=2), Budget(5.0, DELTA, date(2026, 12, 31)))
    assert str(refused.value) == (
        "privacy budget of CPI_Verona: training of run 2026-01, round 2, asks for ε 4, and of the site's ε 5 at δ 1e-06"
        " until 2026-12-31 there is 2 left; nothing was trained; plan with more noise or fewer rounds, or the site "
        "sets a larger budget."
    )
    with pytest.raises(BudgetExceeded, match="with no end date there is 2 left"):
        ledger.reserve(replace(TRAINING, steps=4), Budget(5.0, DELTA))
    assert len(ledger.entries()) == 1


def counting_steps(events: Sequence[PrivacyEvent], delta: float, *, cross_checked: bool = True) -> Spent:
    return Spent(float(sum(event.steps for event in events)), delta)


def test_a_period_that_ended_allows_nothing_and_a_new_one_forgets_nothing(path: Path) -> None:
    now = [datetime(2026, 12, 31, 23, 59, tzinfo=UTC)]
    ledger = opened(path, create=True, accountant=counting_steps, clock=lambda: now[0])
    old = Budget(5.0, DELTA, date(2026, 12, 31))
    late = ledger.reserve(replace(TRAINING, steps=2), old)
    now[0] = datetime(2027, 1, 1, tzinfo=UTC)
    with pytest.raises(BudgetExceeded, match="until 2026-12-31 there is 3 left, and that day is over"):
        ledger.reserve(replace(TRAINING, steps=1), old)
    late.confirm(replace(TRAINING, steps=2))
    with pytest.raises(BudgetExceeded, match=r"asks for ε 4.*there is 3 left"):
        ledger.reserve(replace(TRAINING, steps=4), Budget(5.0, DELTA, date(2027, 12, 31)))
    ledger.reserve(replace(TRAINING, steps=3), Budget(5.0, DELTA, date(2027, 12, 31)))


def test_another_name_run_or_model_buys_no_new_budget(path: Path) -> None:
    ledger = opened(path, create=True)
    budget = Budget(closed_form([TRAINING], DELTA).epsilon, DELTA)
    ledger.reserve(TRAINING, budget)
    for other in ({"site": "CPI_Padova"}, {"run": "2026-02"}, {"purpose": "evaluation"}, {"round": 9}):
        with pytest.raises(BudgetExceeded):
            ledger.reserve(replace(TRAINING, **other), budget)


@pytest.mark.parametrize("wrong", [{"max_epsilon": 0.0}, {"max_epsilon": math.inf}, {"max_epsilon": math.nan}])
def test_a_budget_that_promises_nothing_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="max_epsilon"):
        Budget(**wrong, delta=DELTA)
    with pytest.raises(InputError, match="δ is 1"):
        Budget(1.0, 1.0)


def test_a_confirmation_fits_its_reservation_once(path: Path) -> None:
    ledger = opened(path, create=True)
    reservation = ledger.reserve(TRAINING, AMPLE)
    for other in ({"run": "x"}, {"round": 7}, {"unit": "site"}, {"site": "x"}, {"purpose": "x"}):
        with pytest.raises(ConfirmationRefused, match=f"another {next(iter(other))}"):
            reservation.confirm(replace(TRAINING, **other))
    with pytest.raises(ConfirmationRefused, match="not this reservation"):
        replace(reservation, sequence=2).confirm(TRAINING)
    assert len(ledger.entries()) == 1
    reservation.confirm(TRAINING)
    with pytest.raises(ConfirmationRefused, match="confirmed already"):
        reservation.confirm(TRAINING)


@pytest.mark.parametrize("more", [{"steps": 5}, {"noise_multiplier": 19.0}])
def test_what_was_executed_beyond_the_reservation_is_recorded_and_an_error(path: Path, more: dict[str, Any]) -> None:
    ledger = opened(path, create=True)
    reservation = ledger.reserve(TRAINING, AMPLE)
    with pytest.raises(ConfirmationRefused, match="recorded and counts; send nothing"):
        reservation.confirm(replace(TRAINING, **more))
    assert ledger.spent(DELTA) == closed_form([replace(TRAINING, **more)], DELTA)


STEPS = st.lists(
    st.tuples(st.sampled_from(["reserve", "confirm", "crash"]), st.integers(1, 40), st.floats(5.0, 60.0)), max_size=12
)


@settings(max_examples=25, deadline=None)
@given(acts=STEPS, epsilon=st.floats(0.3, 4.0))
def test_no_order_of_reservations_confirmations_and_crashes_spends_above_the_budget(
    acts: list[tuple[str, int, float]], epsilon: float
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "privacy.sqlite"
        ledger, waiting, counted = opened(file, create=True), [], {}
        for act, steps, noise in acts:
            asked = replace(TRAINING, steps=steps, noise_multiplier=noise)
            if act == "reserve":
                allowed = closed_form([*counted.values(), asked], DELTA).epsilon <= epsilon
                try:
                    waiting.append(ledger.reserve(asked, Budget(epsilon, DELTA)))
                except BudgetExceeded:
                    assert not allowed
                else:
                    assert allowed
                    counted[waiting[-1].sequence] = asked
            elif act == "confirm" and waiting:
                done = waiting.pop(steps % len(waiting))
                counted[done.sequence] = replace(done.event, steps=min(steps, done.event.steps))
                done.confirm(counted[done.sequence])
            elif act == "crash":  # whoever held reservations is gone
                ledger, waiting = opened(file), []
            assert ledger.spent(DELTA).epsilon == closed_form(list(counted.values()), DELTA).epsilon <= epsilon


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET event = replace(event, '20', '90')",
        "DELETE FROM entries WHERE sequence = 4",
        "INSERT OR REPLACE INTO entries SELECT * FROM entries WHERE sequence = 2",
        "INSERT INTO entries SELECT 9, time, kind, reservation, event, hash FROM entries WHERE sequence = 2",
        "UPDATE head SET count = 3",
        "DELETE FROM head",
        "INSERT OR REPLACE INTO head VALUES (1, 0, '')",
    ],
)
def test_the_file_itself_refuses_to_forget(full: Path, statement: str) -> None:
    connection = sqlite3.connect(full)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute(statement)
    connection.close()
    assert len(opened(full).entries()) == 4


LAST = "(SELECT max(sequence) FROM entries)"
SWAP = [f"UPDATE entries SET sequence = {b} WHERE sequence = {a}" for a, b in ((2, 99), (4, 2), (99, 4))]
CUT = ["DELETE FROM entries WHERE sequence > 2"]
CUT_WITH_HEAD = [*CUT, f"UPDATE head SET count = 2, hash = (SELECT hash FROM entries WHERE sequence = {LAST})"]


@pytest.mark.parametrize(
    ("statements", "sentence"),
    [
        (["UPDATE entries SET event = replace(event, ':20', ':90') WHERE sequence = 2"], "entry 2 was changed"),
        (["UPDATE entries SET time = '2020' WHERE sequence = 3"], "entry 3 was changed"),
        (["UPDATE entries SET kind = 'x', event = x'ff' WHERE sequence = 1"], "entry 1 was changed"),
        (SWAP, "entry 2 was changed, or stands in another's place"),
        (["DELETE FROM entries WHERE sequence = 2"], "entry 2 is missing"),
        (CUT, "2 entries are left, and its head counts 4"),
        (["DELETE FROM head"], "its head counts another number"),
        (CUT_WITH_HEAD, "the ledger has 2 entries, and its seal .head is of 4"),
        (["DROP TABLE head"], "SQLite|tables and triggers"),
        (["CREATE TABLE more (x)"], "the tables and triggers are not those"),
    ],
)
def test_a_ledger_that_was_tampered_with_is_refused_and_left_alone(
    full: Path, statements: list[str], sentence: str
) -> None:
    running = opened(full)
    if statements == ["DROP TABLE head"]:
        connection = sqlite3.connect(full)
        connection.execute(statements[0])
        connection.close()
    else:
        forged(full, *statements)
    before = full.read_bytes(), seal_of(full).read_bytes()
    attempts: list[Callable[[], object]] = [
        lambda: opened(full),
        lambda: opened(full, create=True),
        lambda: running.reserve(TRAINING, AMPLE),
        lambda: running.spent(DELTA),
        lambda: running.export("2026-01"),
    ]
    for attempt in attempts:
        with pytest.raises(LedgerDamaged, match=sentence) as refused:
            attempt()
        assert str(refused.value).startswith(str(full))
    assert (full.read_bytes(), seal_of(full).read_bytes()) == before


def test_a_ledger_cut_anywhere_or_with_any_byte_changed_never_loses_an_entry(full: Path) -> None:
    whole, entries = full.read_bytes(), opened(full).entries()
    for length in [0, 1, 100, 4096, 5000, len(whole) - 4096, len(whole) - 1]:
        full.write_bytes(whole[:length])
        with pytest.raises((LedgerDamaged, LedgerUnavailable)):
            opened(full, create=True)
        assert full.stat().st_size == length
    for place in range(0, len(whole), 61):
        full.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            assert opened(full).entries() == entries  # a byte that holds nothing
        except DjmsError:
            continue


def test_a_ledger_without_its_seal_and_a_seal_without_its_ledger_are_refused(full: Path) -> None:
    seal, content = seal_of(full), seal_of(full).read_text()
    for wrong in ("", "[]", "{}", '{"count": "4", "hash": ""}', content[:20]):
        seal.write_text(wrong)
        with pytest.raises(LedgerDamaged, match="not a ledger's seal"):
            opened(full)
    seal.write_text(content.replace('"hash": "', '"hash": "0'))
    with pytest.raises(LedgerDamaged, match="is of 4 others"):
        opened(full)
    seal.unlink()
    with pytest.raises(LedgerDamaged, match="its seal is gone"):
        opened(full)
    seal.write_text(content)
    full.unlink()
    for create in (False, True):
        with pytest.raises(LedgerDamaged, match="the ledger is gone"):
            opened(full, create=create)


def test_an_older_copy_of_the_ledger_alone_is_refused(full: Path, tmp_path: Path) -> None:
    shutil.copy(full, tmp_path / "copy")
    opened(full).reserve(TRAINING, AMPLE)
    shutil.copy(tmp_path / "copy", full)
    with pytest.raises(LedgerDamaged, match=r"has 4 entries, and its seal \.head is of 5"):
        opened(full)


def test_a_seal_one_entry_behind_is_brought_up_and_two_are_refused(full: Path) -> None:
    kept = seal_of(full).read_bytes()
    opened(full).reserve(TRAINING, AMPLE)
    newest = seal_of(full).read_bytes()
    seal_of(full).write_bytes(kept)
    assert len(opened(full).entries()) == 5
    assert seal_of(full).read_bytes() == newest
    opened(full).reserve(TRAINING, AMPLE)
    seal_of(full).write_bytes(kept)
    with pytest.raises(LedgerDamaged, match=r"has 6 entries, and its seal \.head is of 4"):
        opened(full)


WRITER = """
import sys
from pathlib import Path
from client.ledger import Budget, BudgetExceeded, PrivacyLedger
from privacy.accounting import Spent
from privacy.events import PrivacyEvent
def price(events, delta, *, cross_checked=True):
    return Spent(float(sum(event.steps for event in events)), delta)
event = PrivacyEvent.from_json({event})
ledger = PrivacyLedger.open(Path(sys.argv[1]), create=True, accountant=price)
try:
    while True:
        reservation = ledger.reserve(event, Budget(float(sys.argv[2]), 1e-6))
        print(reservation.sequence, flush=True)
except BudgetExceeded:
    pass
"""


def writer(path: Path, epsilon: float) -> subprocess.Popen[str]:
    script = WRITER.replace("{event}", repr(replace(TRAINING, steps=1).to_json()))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", script, str(path), str(epsilon)], stdout=subprocess.PIPE, text=True, env=environment
    )


@pytest.mark.parametrize("acknowledged", [1, 5, 12])
def test_what_was_acknowledged_survives_kill_9(path: Path, acknowledged: int) -> None:
    process = writer(path, 1e6)
    assert process.stdout is not None
    seen = [int(process.stdout.readline()) for _ in range(acknowledged)]
    process.send_signal(signal.SIGKILL)
    seen += [int(line) for line in process.stdout.read().split()]
    process.wait()
    ledger = opened(path)
    recorded = [entry.sequence for entry in ledger.entries()]
    assert recorded[: len(seen)] == seen
    assert len(recorded) <= len(seen) + 1
    assert ledger.reserve(TRAINING, AMPLE).sequence == len(recorded) + 1


def test_two_processes_at_once_share_one_budget(path: Path) -> None:
    processes = [writer(path, 30.0) for _ in range(2)]
    seen = [[int(line) for line in process.communicate(timeout=120)[0].split()] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted(seen[0] + seen[1]) == list(range(1, 31))
    assert len(opened(path).entries()) == 30


def test_a_ledger_held_by_another_process_is_not_damaged(full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.ledger_file.PATIENCE", 0.1)
    holder = sqlite3.connect(full, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerUnavailable, match="another process is using the ledger"):
        opened(full)
    holder.close()
    assert len(opened(full).entries()) == 4
