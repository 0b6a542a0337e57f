"""Request bodies: read up to a limit, decoded by media type."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import orjson
from starlette.requests import Request

from latency_service.core.costs import FloatArray
from latency_service.core.errors import BodyError, BodyTooLargeError, MediaTypeError

JSON = "application/json"
OCTETS = "application/octet-stream"
NPY = "application/x-npy"


def media_type(request: Request) -> str:
    """The body's media type, without parameters; JSON where none is given."""
    stated = request.headers.get("content-type", JSON).partition(";")[0].strip().lower()
    # what `curl -d` sends unless told otherwise
    return JSON if stated in ("", "application/x-www-form-urlencoded") else stated


def require(kind: str, *allowed: str) -> str:
    """The media type, if the endpoint reads it.

    Raises:
        MediaTypeError: if it does not.
    """
    if kind not in allowed:
        raise MediaTypeError(f"Content-Type {kind!r} is not read here; send {' or '.join(allowed)}")
    return kind


async def read(request: Request, most: int, setting: str) -> bytes:
    """The whole body.

    Raises:
        BodyTooLargeError: as soon as it is known to be longer than `most` bytes.
        BodyError: if Content-Length is no number.
    """
    refusal = BodyTooLargeError(
        f"the request body is larger than the {most} bytes that this installation accepts "
        f"({setting})"
    )
    stated = request.headers.get("content-length")
    if stated is not None:
        if not stated.isdigit():
            raise BodyError(f"Content-Length {stated!r} is not a number")
        if int(stated) > most:
            raise refusal
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > most:
            raise refusal
        if chunk:  # the last one is empty; alone, the body is not copied
            chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def decode(body: bytes) -> dict[str, Any]:
    """A JSON object.

    Raises:
        BodyError: if the body is no JSON, or no object; NaN and Infinity are no JSON.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BodyError(f"the request body is not valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise BodyError(f"the request body must be a JSON object, not {type(document).__name__}")
    return document


def read_npy(body: bytes) -> FloatArray:
    """A matrix in NumPy's format.

    Raises:
        BodyError: if it is none, or not numeric; pickled objects are refused.
    """
    try:
        matrix = np.load(io.BytesIO(body), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise BodyError(f"the request body is no .npy array: {error}") from None
    if not isinstance(matrix, np.ndarray) or matrix.dtype.kind not in "iuf":
        raise BodyError("the .npy array must hold numbers")
    return matrix.astype(np.float64)


def write_npy(matrix: FloatArray) -> bytes:
    """A matrix in NumPy's format."""
    buffer = io.BytesIO()
    np.save(buffer, matrix, allow_pickle=False)
    return buffer.getvalue()
