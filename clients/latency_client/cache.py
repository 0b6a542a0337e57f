"""A local cache of answers, so that a restart or a thousand workers do not need the service.

One file per request, named after its digest. It is written beside its place and moved there, so
that a reader sees the old file or the new one, and it carries the checksum of its answer, so that
one that a full disk or a crash has cut is found out.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latency_client.errors import CacheError

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """An answer as it came, and when."""

    document: Mapping[str, Any]
    saved_at_s: float

    @property
    def age_s(self) -> float:
        """Seconds since the answer was fetched."""
        return max(0.0, time.time() - self.saved_at_s)


def default_folder() -> Path:
    """LATENCY_CLIENT_CACHE, else `latency_client` in the user's cache folder."""
    named = os.environ.get("LATENCY_CLIENT_CACHE")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "latency_client"


@dataclass(frozen=True, slots=True)
class Cache:
    """A folder of answers.

    Attributes:
        ttl_s: an entry younger than this answers without asking the service: long enough for all
            workers of a job to start, short enough that a new calibration is soon seen. Answers to
            requests that pin a revision by its digest never change, and never grow old.
    """

    folder: Path
    ttl_s: float = 300.0

    def path(self, digest: str) -> Path:
        """Where the answer to a request is kept."""
        return self.folder / f"{digest.removeprefix('sha256:')}.json"

    def load(self, digest: str) -> Entry | None:
        """The answer to a request; None if it was never kept.

        Raises:
            CacheError: naming the file, if it is damaged.
        """
        path = self.path(digest)
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise CacheError(f"cache file {path} cannot be read: {error}") from None
        try:
            kept = json.loads(text)
            answer, checksum = kept["answer"], kept["checksum"]
            saved_at_s = float(kept["saved_at_s"])
            known = kept["format"] == _FORMAT
        except (ValueError, KeyError, TypeError):
            raise CacheError(f"cache file {path} is damaged: it was written only in part") from None
        if not known or not isinstance(answer, str) or _checksum(answer) != checksum:
            raise CacheError(f"cache file {path} is damaged: its checksum does not fit its content")
        return Entry(json.loads(answer), saved_at_s)

    def save(self, digest: str, document: Mapping[str, Any]) -> None:
        """Keep an answer; readers see the old one or the new one, never half of it.

        Raises:
            CacheError: if the folder cannot be written.
        """
        answer = json.dumps(document)
        kept = {
            "format": _FORMAT,
            "saved_at_s": time.time(),
            "checksum": _checksum(answer),
            "answer": answer,
        }
        path = self.path(digest)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps(kept))
        except OSError as error:
            raise CacheError(
                f"cache folder {self.folder} cannot be written ({error}); name another one with "
                "cache=... or LATENCY_CLIENT_CACHE, or switch it off with cache=None"
            ) from None


def write_whole(path: Path, text: str) -> None:
    """Write a file so that nobody ever sees a part of it.

    Raises:
        OSError: if the folder cannot be written.
    """
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files that only their owner reads; a cache may be shared
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
