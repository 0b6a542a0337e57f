"""The measurements behind a revision, as one compressed document.

They are kept so that a better fit needs no new measurement, and read as a whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, insert, select

from latency_service.core.errors import ProfileError
from latency_service.storage import tables


class Elsewhere(NamedTuple):
    """Samples that are published somewhere else and not kept here.

    Attributes:
        digest: of their own document.
    """

    source: str
    digest: str


def write_samples(
    connection: Connection,
    revision_id: int,
    samples: Sequence[Mapping[str, Any]],
    source: str | None,
    digest: str | None,
) -> None:
    """Store the samples of a revision that this transaction appended.

    Args:
        connection: the transaction.
        revision_id: the revision's row.
        samples: one mapping a measurement; empty where they are published elsewhere.
        source: where they come from; None: measured by this installation.
        digest: of the samples' own document, where they are published elsewhere; None: theirs.

    Raises:
        ProfileError: if a sample holds what JSON cannot.
    """
    try:
        body = json.dumps(list(samples), sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ProfileError(f"the samples hold a value that JSON cannot: {error}") from error
    own = "sha256:" + hashlib.sha256(body.encode()).hexdigest()
    connection.execute(
        insert(tables.samples).values(
            revision_id=revision_id,
            body=zlib.compress(body.encode()),
            source=source or "measured",
            digest=digest or own,
        )
    )


def read_samples(connection: Connection, device: str, revision: int) -> dict[str, Any] | None:
    """`{"samples": [...], "source", "digest"}` of a device's revision; None if it has none."""
    kept = tables.samples
    row = connection.execute(
        select(kept.c.body, kept.c.source, kept.c.digest)
        .join(tables.revisions, tables.revisions.c.id == kept.c.revision_id)
        .where(tables.revisions.c.device == device, tables.revisions.c.revision == revision)
    ).one_or_none()
    if row is None:
        return None
    return {
        "samples": json.loads(zlib.decompress(row.body)),
        "source": row.source,
        "digest": row.digest,
    }
