"""Latency penalties for training: costs by device name, structures out, smaller models in.

Neutral parts are here; `latency_client.torch` and `latency_client.keras` hold the regularisers of
their frameworks. Importing this package imports neither of them.
"""

from latency_client.cache import Cache
from latency_client.errors import (
    AnswerError,
    BudgetError,
    CacheError,
    GraphError,
    LatencyClientError,
    NothingToPruneError,
    OptionError,
    PruningError,
    RefusedError,
    ServiceError,
    ServiceUnavailableError,
    StaleAnswerError,
    StructureError,
    UnknownDeviceError,
    UnsupportedOperatorError,
)
from latency_client.request import Request
from latency_client.service import FallbackWarning, FileService, HttpService, connect, save_answers
from latency_client.strength import strength_sweep, suggested_strength
from latency_client.structure import Structure, read_alive_counts, read_structure
from latency_client.wire import Answer

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "AnswerError",
    "BudgetError",
    "Cache",
    "CacheError",
    "FallbackWarning",
    "FileService",
    "GraphError",
    "HttpService",
    "LatencyClientError",
    "NothingToPruneError",
    "OptionError",
    "PruningError",
    "RefusedError",
    "Request",
    "ServiceError",
    "ServiceUnavailableError",
    "StaleAnswerError",
    "Structure",
    "StructureError",
    "UnknownDeviceError",
    "UnsupportedOperatorError",
    "connect",
    "read_alive_counts",
    "read_structure",
    "save_answers",
    "strength_sweep",
    "suggested_strength",
]
