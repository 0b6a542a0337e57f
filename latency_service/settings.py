"""Every environment variable of the service: name, default, help.

Each setting is read from `LATENCY_SERVICE_<NAME>`; docs/operations.md lists them all, and a test
holds that list complete.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from platformdirs import user_data_path
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Where the service keeps its data, and how much it accepts."""

    model_config = SettingsConfigDict(env_prefix="LATENCY_SERVICE_", frozen=True, extra="ignore")

    database_url: str = Field(
        default="",
        description="SQLAlchemy URL of the database; empty: SQLite in `data_directory`. "
        "PostgreSQL: postgresql+psycopg://user:password@host/name",
    )
    data_directory: Path = Field(
        default_factory=lambda: user_data_path("latency_service"),
        description="folder of the embedded SQLite database; made when missing",
    )
    profiles_directory: Path | None = Field(
        default=None,
        description="folder of device profiles (*.toml) loaded at start; default: those shipped",
    )
    migrate_at_start: bool = Field(
        default=True,
        description="whether `serve` upgrades the database schema and loads the profiles itself; "
        "false where a separate job does",
    )
    max_body_bytes: int = Field(
        default=32 * 2**20, gt=0, description="largest JSON or .npy request body, in bytes"
    )
    max_model_bytes: int = Field(
        default=2**30, gt=0, description="largest ONNX file accepted over HTTP, in bytes"
    )
    max_layers: int = Field(default=20_000, gt=0, description="most layers a graph may have")
    max_score_rows: int = Field(
        default=200_000, gt=0, description="most sub-networks in one scoring request"
    )
    max_graphs: int = Field(
        default=10_000,
        gt=0,
        description="most stored graphs; the least recently used are dropped first",
    )
    cached_answers: int = Field(
        default=512, ge=0, description="answers kept in memory by each worker"
    )
    profile_refresh_s: float = Field(
        default=1.0,
        ge=0,
        description="seconds until a worker sees a revision that another process appended",
    )
    open_reads: bool = Field(
        default=True, description="whether reading needs no token; false: any valid token"
    )

    @property
    def url(self) -> str:
        """The database URL in force."""
        return self.database_url or f"sqlite:///{self.data_directory / 'latency_service.db'}"


@lru_cache
def settings() -> Settings:
    """The settings of this process, read once."""
    return Settings()
