"""Everything that can go wrong, as one tree.

    LatencyServiceError
    ├── GraphError               a layer graph that cannot be costed; carries every problem at once
    │   ├── UnknownOpError       an operator the cost model does not know
    │   └── UnboundDimensionError  a named dimension that the request does not bind
    ├── GraphTooLargeError       over a limit of the installation
    ├── BodyTooLargeError        more bytes than this installation accepts
    ├── BodyError                a request body that cannot be decoded at all
    ├── MediaTypeError           a request body of a kind that the endpoint does not read
    ├── ModelFileError           bytes that are no usable ONNX model
    ├── OptionError              a request option that is impossible for this graph or device
    ├── ProfileError             a device profile that is malformed
    ├── UnknownDeviceError       no device of that name or alias
    ├── UnknownRevisionError     no such revision of the device
    ├── UnknownGraphError        no stored graph of that id
    ├── MissingRateError         the device has no rate for a dtype and no wider one
    ├── ConflictError            a name that another device already has
    ├── TokenError               no token, a wrong or a revoked one
    ├── DatabaseError            a database that cannot be reached, read or written
    ├── MissingExtraError        an optional dependency that is not installed
    ├── SampleError              a recorded measurement that is malformed
    └── CalibrationError         a calibration that cannot be done, or not be trusted

Each message says what, where, and what to do next. The HTTP status of each stands in
latency_service/api/problems.py.
"""

from __future__ import annotations

from dataclasses import dataclass


class LatencyServiceError(Exception):
    """Base of every error that a user can cause or mend."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a graph: in which layer, in which field, and what."""

    layer: str | None
    field: str | None
    detail: str

    def __str__(self) -> str:
        """Read as a sentence."""
        where = [f"layer {self.layer!r}"] if self.layer is not None else []
        where += [f"field {self.field!r}"] if self.field is not None else []
        return f"{', '.join(where)}: {self.detail}" if where else self.detail


class GraphError(LatencyServiceError):
    """A layer graph that cannot be costed.

    Attributes:
        problems: every problem that was found, not only the first.
    """

    def __init__(self, problems: list[Problem] | Problem | str) -> None:
        """Collect one or many problems; the message shows the first ten."""
        if isinstance(problems, str):
            problems = Problem(None, None, problems)
        self.problems = [problems] if isinstance(problems, Problem) else list(problems)
        shown = [str(problem) for problem in self.problems[:10]]
        if len(self.problems) > len(shown):
            shown.append(f"and {len(self.problems) - len(shown)} more")
        super().__init__("; ".join(shown))


class UnknownOpError(GraphError):
    """An operator that the cost model does not know."""


class UnboundDimensionError(GraphError):
    """Named dimensions that the request does not bind.

    Attributes:
        names: of the dimensions.
    """

    def __init__(self, names: list[str]) -> None:
        """One problem for each dimension."""
        self.names = names
        super().__init__(
            [
                Problem(
                    None,
                    f"dims.{name}",
                    f'dimension {name!r} has no value; bind it: "dims": {{"{name}": 128}}',
                )
                for name in names
            ]
        )


class GraphTooLargeError(LatencyServiceError):
    """More layers, bytes or rows than this installation accepts."""


class BodyTooLargeError(LatencyServiceError):
    """More bytes than this installation accepts."""


class BodyError(LatencyServiceError):
    """A request body that cannot be decoded."""


class MediaTypeError(LatencyServiceError):
    """A request body of a media type that the endpoint does not read."""


class ModelFileError(LatencyServiceError):
    """Bytes that are no usable ONNX model."""


class OptionError(LatencyServiceError):
    """A request option that is impossible for this graph or this device."""


class ProfileError(LatencyServiceError):
    """A device profile that is malformed; the message names the field."""


class UnknownDeviceError(LatencyServiceError):
    """No device of that name or alias."""


class UnknownRevisionError(LatencyServiceError):
    """No such revision of the device, or none for that runtime."""


class UnknownGraphError(LatencyServiceError):
    """No stored graph of that id."""


class MissingRateError(LatencyServiceError):
    """The device has no compute rate for the dtype, nor for a wider one."""


class ConflictError(LatencyServiceError):
    """A name that already belongs to another device."""


class TokenError(LatencyServiceError):
    """No token, a wrong one, or one that was revoked."""


class DatabaseError(LatencyServiceError):
    """A database that cannot be reached, is damaged, or has another schema than this release."""


class MissingExtraError(LatencyServiceError):
    """An optional dependency that is not installed; the message gives the command."""


class SampleError(LatencyServiceError):
    """A recorded measurement that is malformed; the message names the line and the field."""


class CalibrationError(LatencyServiceError):
    """A calibration that cannot be carried out, or whose result cannot be trusted."""
