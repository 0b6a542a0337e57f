"""What every use case works with: the stores, and what this process remembers."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Generic, TypeVar

from cachetools import LRUCache
from sqlalchemy import Engine

from latency_service.core.costs import CostModel
from latency_service.core.errors import ConflictError
from latency_service.core.graph import LayerGraph
from latency_service.core.profile import Profile
from latency_service.settings import Settings
from latency_service.storage.engine import make_engine
from latency_service.storage.graphs import GraphStore
from latency_service.storage.migrate import upgrade
from latency_service.storage.profiles import Catalogue, ProfileRepository
from latency_service.storage.published import published_files
from latency_service.storage.samples import Elsewhere
from latency_service.storage.seeds import read_profiles, shipped_profiles_folder
from latency_service.storage.tokens import TokenStore

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Memory(Generic[T]):
    """The most recently used values, shared between threads."""

    def __init__(self, most: int) -> None:
        self._values: LRUCache[Hashable, T] = LRUCache(max(1, most))
        self._lock = threading.Lock()
        self._keeps = most > 0

    def get(self, key: Hashable) -> T | None:
        """The value of a key, if it is still remembered."""
        with self._lock:
            return self._values.get(key)

    def put(self, key: Hashable, value: T) -> T:
        """Remember a value, forgetting the least recently used one if there are too many."""
        if self._keeps:
            with self._lock:
                self._values[key] = value
        return value

    def forget(self) -> None:
        """Remember nothing."""
        with self._lock:
            self._values.clear()


@dataclass
class Remembered:
    """An answer as it went out, and the stored graph it is about."""

    body: bytes
    graph_id: str
    used_s: float = field(default_factory=time.monotonic)

    @cached_property
    def etag(self) -> str:
        """A strong entity tag: it changes when any byte of the answer does."""
        return f'"{hashlib.sha256(self.body).hexdigest()[:32]}"'

    def is_due(self) -> bool:
        """Whether the store should hear, once a minute, that the graph is still in use."""
        now = time.monotonic()
        if now - self.used_s < 60:
            return False
        self.used_s = now
        return True


@dataclass
class Workbench:
    """The stores and the memories of one process; made once, shared by all threads."""

    settings: Settings
    engine: Engine
    profiles: ProfileRepository
    graphs: GraphStore
    tokens: TokenStore
    parsed: Memory[LayerGraph] = field(init=False)
    costed: Memory[CostModel] = field(init=False)
    answers: Memory[Remembered] = field(init=False)
    _catalogue: Catalogue | None = None
    _checked_s: float = float("-inf")
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        """Size the memories."""
        self.parsed = Memory(256)
        self.costed = Memory(256)
        self.answers = Memory(self.settings.cached_answers)

    def catalogue(self) -> Catalogue:
        """All devices and their latest revisions, at most `profile_refresh_s` old."""
        now = time.monotonic()
        current = self._catalogue
        if current is not None and now - self._checked_s < self.settings.profile_refresh_s:
            return current
        with self._lock:
            if self._catalogue is None or self.profiles.epoch() != self._catalogue.epoch:
                self._catalogue = self.profiles.catalogue()
            self._checked_s = time.monotonic()
            return self._catalogue

    def fresh_catalogue(self) -> Catalogue | None:
        """The catalogue, if it can be had without asking the database."""
        age_s = time.monotonic() - self._checked_s
        return self._catalogue if age_s < self.settings.profile_refresh_s else None

    def forget_catalogue(self) -> None:
        """Look at the database again at the next request: a revision has been appended."""
        with self._lock:
            self._checked_s = float("-inf")

    def close(self) -> None:
        """Give the database connections back."""
        self.engine.dispose()


def open_workbench(settings: Settings, prepare: bool = True) -> Workbench:
    """Connect to the database.

    Args:
        prepare: whether to upgrade its schema and load the profiles first.
    """
    engine = make_engine(settings.url)
    profiles = ProfileRepository(engine)
    if prepare:
        prepare_database(engine, profiles, settings)
    return Workbench(
        settings=settings,
        engine=engine,
        profiles=profiles,
        graphs=GraphStore(engine, max_graphs=settings.max_graphs),
        tokens=TokenStore(engine),
    )


def prepare_database(engine: Engine, profiles: ProfileRepository, settings: Settings) -> int:
    """Upgrade the schema and load the shipped profiles; both do nothing the second time.

    Returns:
        How many revisions were appended.
    """
    upgrade(engine)
    folder = settings.profiles_directory or shipped_profiles_folder()
    shipped = read_profiles(folder)
    try:
        appended = profiles.seed(shipped)
    except ConflictError:
        # a name that a release claims and the user already gave away must not keep the service
        # from starting: the user's device stays, the shipped one waits
        appended = sum(_seed_one(profiles, profile) for profile in shipped)
    # after the data sheets: they are the revisions with the lower numbers
    files = published_files(folder)
    if not profiles.has_all(file.key for file in files):
        for file in files:
            found = file.read()
            appended += _seed_one(profiles, found.profile, "published", [found.samples])
    return appended


def _seed_one(
    profiles: ProfileRepository,
    profile: Profile,
    origin: str = "datasheet",
    samples: Sequence[Elsewhere] | None = None,
) -> int:
    try:
        return profiles.seed([profile], origin, samples)
    except ConflictError as error:
        logger.warning("profile %s was not loaded: %s", profile.device.slug, error)
        return 0
