"""Everything that can go wrong, as one tree.

    LatencyClientError
    ├── OptionError                  an argument that is impossible, alone or for this model
    ├── GraphError                   a model that cannot be written as a layer graph
    │   └── UnsupportedOperatorError an operation of the model without a counterpart in ONNX's terms
    ├── ServiceError                 the service gave no usable answer
    │   ├── ServiceUnavailableError  it cannot be reached, and no cached answer stands in
    │   ├── UnknownDeviceError       it knows no device of that name
    │   ├── RefusedError             it refuses the graph, the options or the token
    │   └── AnswerError              an answer, or a file of answers, that cannot be read
    ├── StaleAnswerError             an answer that belongs to another network than this one
    ├── CacheError                   a cache that cannot be written, or an entry that is damaged
    ├── NothingToPruneError          no channel of the model can be regularised
    ├── StructureError               a structure that does not fit the network it is applied to
    ├── BudgetError                  a budget that no sub-network of the family meets
    └── PruningError                 a model that cannot be made smaller as its structure says

Each message says what, where, and what to do next. A regulariser that cannot be built raises: there
is no penalty that is silently zero.
"""

from __future__ import annotations

from collections.abc import Sequence


class LatencyClientError(Exception):
    """Base of every error that a user can cause or mend."""


class OptionError(LatencyClientError):
    """An argument that is impossible, alone or for this model."""


class GraphError(LatencyClientError):
    """A model that cannot be written as a layer graph."""


class UnsupportedOperatorError(GraphError):
    """An operation of the model without a counterpart in the vocabulary of ONNX.

    Attributes:
        operators: (operation, where it is called), each pair once.
    """

    def __init__(self, message: str, operators: Sequence[tuple[str, str]] = ()) -> None:
        """Keep what was found, for programs that want to mend it."""
        super().__init__(message)
        self.operators = tuple(operators)


class ServiceError(LatencyClientError):
    """The service gave no usable answer."""


class ServiceUnavailableError(ServiceError):
    """The service cannot be reached, and no cached answer stands in."""


class UnknownDeviceError(ServiceError):
    """The service, or the file in its place, knows no device of that name."""


class RefusedError(ServiceError):
    """The service refuses the graph, the options or the token.

    Attributes:
        status: the HTTP status of the refusal.
        kind: the last part of the problem's type, "unknown-op" say.
    """

    def __init__(self, message: str, status: int, kind: str = "") -> None:
        """Keep the status and the kind of problem."""
        super().__init__(message)
        self.status = status
        self.kind = kind


class AnswerError(ServiceError):
    """An answer, or a file of answers, that cannot be read."""


class StaleAnswerError(LatencyClientError):
    """An answer that belongs to another network than this one."""


class CacheError(LatencyClientError):
    """A cache that cannot be written, or an entry of it that is damaged."""


class NothingToPruneError(LatencyClientError):
    """No channel of the model can be regularised."""


class StructureError(LatencyClientError):
    """A structure that does not fit the network it is applied to."""


class BudgetError(LatencyClientError):
    """A budget that no sub-network of the family meets."""


class PruningError(LatencyClientError):
    """A model that cannot be made smaller as its structure says."""
