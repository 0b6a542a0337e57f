"""Run by Alembic: migrates the connection that `upgrade` passes, inside its transaction."""

from __future__ import annotations

from alembic import context

from latency_service.storage.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite too rolls schema changes back, since `writing` issues its own BEGIN.
    transactional_ddl=True,
    # SQLite changes a column by copying the table.
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
