"""Runs, their rounds, and whom they wait for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_MOMENT = sa.DateTime(timezone=True)
_METRICS = (
    "roc_auc",
    "pr_auc",
    "f1",
    "accuracy",
    "balanced_accuracy",
    "log_loss",
    "brier",
    "ece",
    "ndcg_at_5",
    "hit_at_5",
)


def upgrade() -> None:
    """Make the three tables."""
    op.create_table(
        "runs",
        sa.Column("name", sa.String(200), primary_key=True),
        sa.Column("created", _MOMENT, nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("flower_run", sa.String(20)),
        sa.Column("bundle_sha256", sa.String(64)),
        sa.Column("settings", sa.JSON, nullable=False),
        sa.Column("sites", sa.JSON, nullable=False),
        sa.Column("outcome", sa.Text),
        sa.Column("model_sha256", sa.String(64)),
        sa.Column("epsilon", sa.Float),
    )
    op.create_table(
        "rounds",
        sa.Column("run", sa.String(200), sa.ForeignKey("runs.name"), primary_key=True),
        sa.Column("round", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("started", _MOMENT),
        sa.Column("ended", _MOMENT),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("seconds", sa.Float),
        sa.Column("sites", sa.Integer, nullable=False),
        sa.Column("people", sa.Integer),
        sa.Column("train_loss", sa.Float),
        sa.Column("model_sha256", sa.String(64), nullable=False),
        sa.Column("threshold", sa.Float),
        *(sa.Column(metric, sa.Float) for metric in _METRICS),
        sa.Column("reason", sa.Text, nullable=False),
    )
    op.create_table(
        "waiting",
        sa.Column("run", sa.String(200), sa.ForeignKey("runs.name"), primary_key=True),
        sa.Column("round", sa.Integer),
        sa.Column("step", sa.String(40), nullable=False),
        sa.Column("until", _MOMENT, nullable=False),
        sa.Column("asked", sa.JSON, nullable=False),
        sa.Column("answered", sa.JSON, nullable=False),
    )
