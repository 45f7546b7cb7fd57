"""The tables of the coordinator's database, as `server/migrations` makes them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import (
    JSON,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
)

from common.metrics import METRICS

SUBMITTED: Final = "submitted"
RUNNING: Final = "running"
FINISHED: Final = "finished"
FAILED: Final = "failed"
STOPPED: Final = "stopped"


class Moment(TypeDecorator[datetime]):
    """A point in time, in UTC: SQLite forgets the zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """In UTC."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """In UTC, and saying so."""
        if not isinstance(value, datetime):
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


METADATA = MetaData()

RUNS = Table(
    "runs",
    METADATA,
    Column("name", String(200), primary_key=True),
    Column("created", Moment, nullable=False),
    Column("status", String(20), nullable=False),
    Column("flower_run", String(20)),  # 64 bits without a sign, more than databases count to
    Column("bundle_sha256", String(64)),
    Column("settings", JSON, nullable=False),
    Column("sites", JSON, nullable=False),
    Column("outcome", Text),
    Column("model_sha256", String(64)),
    Column("epsilon", Float),
)
"""One row a run: `outcome` is the sentence that says how it ended."""

ROUNDS = Table(
    "rounds",
    METADATA,
    Column("run", String(200), ForeignKey("runs.name"), primary_key=True),
    Column("round", Integer, primary_key=True),
    Column("started", Moment),
    Column("ended", Moment),
    Column("status", String(20), nullable=False),
    Column("seconds", Float),
    Column("sites", Integer, nullable=False),
    Column("people", Integer),
    Column("train_loss", Float),
    Column("model_sha256", String(64), nullable=False),
    Column("threshold", Float),
    *(Column(metric, Float) for metric in METRICS),
    Column("reason", Text, nullable=False),
)
"""One row a round: what `rounds.csv` has, and when it was."""

WAITING = Table(
    "waiting",
    METADATA,
    Column("run", String(200), ForeignKey("runs.name"), primary_key=True),
    Column("round", Integer),
    Column("step", String(40), nullable=False),
    Column("until", Moment, nullable=False),
    Column("asked", JSON, nullable=False),
    Column("answered", JSON, nullable=False),
)
"""At most one row a run: whom it waits for now; no `round` after the last one."""
