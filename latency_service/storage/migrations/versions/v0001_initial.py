"""The first schema: devices, revisions and samples, graphs, tokens."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_MOMENT = sa.DateTime(timezone=True)
_APPEND_ONLY = ("revisions", "samples")


def upgrade() -> None:
    """Make the tables, then the triggers that keep revisions and samples append-only."""
    _make_profile_tables()
    op.create_table(
        "graphs",
        sa.Column("graph_id", sa.String, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("layers", sa.Integer, nullable=False),
        sa.Column("size_bytes", sa.Integer, nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("used_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("graph_id", name="pk_graphs"),
    )
    op.create_index("ix_graphs_used_at", "graphs", ["used_at"])
    op.create_table(
        "tokens",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("hash", sa.String, nullable=False),
        sa.Column("scope", sa.String, nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("revoked_at", _MOMENT),
        sa.UniqueConstraint("hash", name="uq_tokens_hash"),
        sqlite_autoincrement=True,
    )
    live = sa.text("revoked_at IS NULL")
    op.create_index(
        "uq_tokens_live_name",
        "tokens",
        ["name"],
        unique=True,
        sqlite_where=live,
        postgresql_where=live,
    )
    if op.get_bind().dialect.name == "postgresql":
        _guard_postgresql()
    else:
        _guard_sqlite()


def downgrade() -> None:
    """Refuse: there is nothing before the first schema."""
    raise RuntimeError("nothing comes before the first schema; drop the database instead")


def _make_profile_tables() -> None:
    op.create_table(
        "devices",
        sa.Column("slug", sa.String, nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("slug", name="pk_devices"),
    )
    op.create_table(
        "aliases",
        sa.Column("alias", sa.String, nullable=False),
        sa.Column("device", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("alias", name="pk_aliases"),
        sa.ForeignKeyConstraint(["device"], ["devices.slug"], name="fk_aliases_device"),
    )
    op.create_table(
        "revisions",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("device", sa.String, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("runtime", sa.String, nullable=False),
        sa.Column("digest", sa.String, nullable=False),
        sa.Column("origin", sa.String, nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("profile", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["device"], ["devices.slug"], name="fk_revisions_device"),
        sa.UniqueConstraint("device", "revision", name="uq_revisions_device_revision"),
        sa.UniqueConstraint(
            "device", "runtime", "digest", name="uq_revisions_device_runtime_digest"
        ),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "samples",
        sa.Column("revision_id", sa.Integer, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("source", sa.String, nullable=False),
        sa.Column("digest", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("revision_id", name="pk_samples"),
        sa.ForeignKeyConstraint(["revision_id"], ["revisions.id"], name="fk_samples_revision_id"),
    )


def _guard_sqlite() -> None:
    for table in _APPEND_ONLY:
        for event in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_refuse_{event.lower()} BEFORE {event} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} are append-only: no {event}'); END"
            )
    # INSERT OR REPLACE deletes the older row without asking the DELETE trigger.
    same = {
        "revisions": "id = NEW.id OR device = NEW.device AND (revision = NEW.revision "
        "OR runtime = NEW.runtime AND digest = NEW.digest)",
        "samples": "revision_id = NEW.revision_id",
    }
    for table, condition in same.items():
        op.execute(
            f"CREATE TRIGGER {table}_refuse_replace BEFORE INSERT ON {table} "
            f"WHEN EXISTS (SELECT 1 FROM {table} WHERE {condition}) "
            f"BEGIN SELECT RAISE(ABORT, '{table} are append-only: already there'); END"
        )


def _guard_postgresql() -> None:
    op.execute(
        "CREATE FUNCTION latency_service_append_only() RETURNS trigger LANGUAGE plpgsql AS $$ "
        "BEGIN RAISE EXCEPTION '% are append-only: no %', TG_TABLE_NAME, TG_OP "
        "USING ERRCODE = 'integrity_constraint_violation'; END $$"
    )
    for table in _APPEND_ONLY:
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION latency_service_append_only()"
        )
