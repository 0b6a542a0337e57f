"""The tables: what is kept, and what the database itself holds true.

    devices --< aliases          further names of a device; a name belongs to one device
            --< revisions --- samples      published profiles and the measurements behind them
    graphs                       layer graphs by content; the least recently used are dropped
    tokens                       hashes of the secrets that may append

Revisions and samples are append-only: triggers refuse UPDATE and DELETE. They are made by the
migration, as is everything else here; a test holds the two equal.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    TypeDecorator,
    UniqueConstraint,
    text,
)


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC, time zone included; SQLite keeps it as text that sorts by time."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert to UTC: SQLite drops the zone."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give the zone back; PostgreSQL answers in the session's zone."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

devices = Table(
    "devices",
    metadata,
    Column("slug", String, primary_key=True),
    Column("created_at", UtcDateTime, nullable=False),
)

aliases = Table(
    "aliases",
    metadata,
    Column("alias", String, primary_key=True),
    Column("device", ForeignKey("devices.slug"), nullable=False),
)

# The latest revision is max(id), not a flag, so that appending never has to touch an older row.
revisions = Table(
    "revisions",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("device", ForeignKey("devices.slug"), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("runtime", String, nullable=False),
    Column("digest", String, nullable=False),
    Column("origin", String, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    # text, not JSONB: that would read 1e16 back as an integer, and the digest is over the spelling
    Column("profile", JSON, nullable=False),
    UniqueConstraint("device", "revision"),
    UniqueConstraint("device", "runtime", "digest"),
    sqlite_autoincrement=True,
)

samples = Table(
    "samples",
    metadata,
    Column("revision_id", ForeignKey("revisions.id"), primary_key=True),
    Column("body", LargeBinary, nullable=False),
    Column("source", String, nullable=False),
    Column("digest", String, nullable=False),
)

graphs = Table(
    "graphs",
    metadata,
    Column("graph_id", String, primary_key=True),
    Column("body", LargeBinary, nullable=False),
    Column("layers", Integer, nullable=False),
    Column("size_bytes", Integer, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("used_at", UtcDateTime, nullable=False, index=True),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("name", String, nullable=False),
    Column("hash", String, nullable=False, unique=True),
    Column("scope", String, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("revoked_at", UtcDateTime),
    sqlite_autoincrement=True,
)

# A revoked token's name is free again.
Index(
    "uq_tokens_live_name",
    tokens.c.name,
    unique=True,
    sqlite_where=text("revoked_at IS NULL"),
    postgresql_where=text("revoked_at IS NULL"),
)
