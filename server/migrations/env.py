"""What Alembic runs: the migrations, on the connection that `server.run_store` has open."""

from __future__ import annotations

from alembic import context

from server.run_tables import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
with context.begin_transaction():
    context.run_migrations()
