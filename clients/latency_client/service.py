"""Where coefficients come from: the service over HTTP, or a file in its place.

`HttpService` asks once, retries what may pass by itself (no connection, 429, 502, 503, 504) with
growing pauses, and keeps answers in a local cache. `FileService` reads `file:coefficients.json`,
which `save_answers` writes, for clusters that reach no service.
"""

from __future__ import annotations

import json
import os
import random
import time
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import httpx

from latency_client.cache import Cache, Entry, default_folder, write_whole
from latency_client.errors import (
    AnswerError,
    CacheError,
    LatencyClientError,
    RefusedError,
    ServiceError,
    ServiceUnavailableError,
    StaleAnswerError,
    UnknownDeviceError,
)
from latency_client.request import Request
from latency_client.wire import Answer

RETRIED = frozenset({429, 502, 503, 504})
_FILE_FORMAT = "latency-client coefficients 1"


class FallbackWarning(UserWarning):
    """An older answer stands in for one that could not be had."""


class Source(Protocol):
    """Anything that answers requests for coefficients."""

    def coefficients(self, request: Request, *, fresh: bool = False) -> Answer:
        """The answer to a request.

        Args:
            fresh: ask anew and only once; neither the cache nor a retry stands in.

        Raises:
            ServiceError: if there is none.
            StaleAnswerError: if what there is belongs to another network.
        """
        ...


class HttpClient(Protocol):
    """The part of `httpx.Client` that is used; anything that has it can be injected."""

    def post(self, url: str, /, **kwargs: Any) -> Any:
        """Send a request and wait for its answer."""
        ...


class HttpService:
    """The service at a URL.

    Attributes:
        url: of the service, without `/v1`.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        timeout_s: float = 10.0,
        retries: int = 4,
        pause_s: float = 0.25,
        cache: Cache | None = None,
        client: HttpClient | None = None,
    ) -> None:
        """Describe how to reach the service; nothing is sent yet.

        Args:
            token: for services that ask for one; default: LATENCY_SERVICE_TOKEN.
            retries: after the first attempt.
            pause_s: before the first retry; doubled for each further one, and jittered.
            client: in place of an `httpx.Client` of its own.
        """
        self.url = url.rstrip("/")
        self._token = token if token is not None else os.environ.get("LATENCY_SERVICE_TOKEN")
        self._timeout_s = timeout_s
        self._retries = retries
        self._pause_s = pause_s
        self._cache = cache
        self._client = client

    def coefficients(self, request: Request, *, fresh: bool = False) -> Answer:
        """See `Source.coefficients`."""
        kept = None if fresh else self._kept(request)
        if kept is not None and self._cache is not None:
            pinned = str(request.options.get("revision", "")).startswith("sha256:")
            if pinned or kept.age_s < self._cache.ttl_s:
                return self._read_kept(request, kept)
        try:
            document = self.post("/v1/coefficients", request.document(), 0 if fresh else None)
        except ServiceUnavailableError as error:
            if kept is None:
                raise
            answer = self._read_kept(request, kept)
            warnings.warn(
                f"{error} Going on with the cached answer of {kept.age_s / 3600:.1f} hours ago: "
                f"{answer.device.name}, revision {answer.device.revision} ({answer.device.digest})",
                FallbackWarning,
                stacklevel=2,
            )
            return answer
        answer = request.check(Answer.from_json(document, self.url), self.url)
        if self._cache is not None:
            try:
                self._cache.save(request.digest, document)
            except CacheError as error:
                warnings.warn(f"{error}; the answer is used all the same", stacklevel=2)
        return answer

    def post(
        self, path: str, body: Mapping[str, Any], retries: int | None = None
    ) -> Mapping[str, Any]:
        """Send JSON and read JSON, patiently.

        Args:
            retries: in place of the service's own number.

        Raises:
            ServiceUnavailableError: if no attempt was answered.
            UnknownDeviceError: naming devices of a similar name.
            RefusedError: for every other refusal.
            AnswerError: if the answer is no JSON object.
        """
        attempts = 1 + (self._retries if retries is None else retries)
        content = json.dumps(body, separators=(",", ":")).encode()
        problem = ""
        for attempt in range(attempts):
            if attempt:
                # jitter keeps a thousand workers from coming back at the same moment
                time.sleep(self._pause_s * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))
            try:
                response = self._send(path, content)
            except (httpx.TransportError, OSError) as error:
                problem = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
                continue
            if response.status_code in RETRIED:
                problem = f"it answers {response.status_code}"
                continue
            return _body(self.url, path, response)
        tries = f"{attempts} attempts" if attempts > 1 else "one attempt"
        raise ServiceUnavailableError(
            f"the latency service at {self.url} gave no answer in {tries}: {problem}. "
            "Start it with `latency-service serve`, name another one with service=..., or train "
            'from a file: service="file:coefficients.json".'
        )

    def _send(self, path: str, content: bytes) -> Any:
        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        url = self.url + path
        if self._client is not None:
            return self._client.post(url, content=content, headers=headers)
        return httpx.post(url, content=content, headers=headers, timeout=self._timeout_s)

    def _kept(self, request: Request) -> Entry | None:
        if self._cache is None:
            return None
        try:
            return self._cache.load(request.digest)
        except CacheError as error:
            warnings.warn(f"{error}; it is fetched again", FallbackWarning, stacklevel=3)
            return None

    def _read_kept(self, request: Request, kept: Entry) -> Answer:
        assert self._cache is not None
        source = f"cache file {self._cache.path(request.digest)}"
        return request.check(Answer.from_json(kept.document, source), source)


def _body(url: str, path: str, response: Any) -> Mapping[str, Any]:
    try:
        document = response.json()
    except ValueError:
        document = None
    if response.status_code < 400:
        if not isinstance(document, dict):
            raise AnswerError(
                f"{url}{path} answered with something that is no JSON object; is this the URL of "
                "a latency service?"
            )
        return document
    problem = document if isinstance(document, dict) else {}
    kind = str(problem.get("type", "")).rpartition(":")[2]
    detail = str(problem.get("detail") or f"HTTP status {response.status_code}")
    if kind == "unknown-device":
        raise UnknownDeviceError(detail)
    if response.status_code == 401:
        detail += "; pass token=..., or set LATENCY_SERVICE_TOKEN"
    if not kind:
        detail += f"; is {url} the URL of a latency service?"
    raise RefusedError(
        f"the latency service at {url} refuses: {detail}", response.status_code, kind
    )


class FileService:
    """Answers from a file, for clusters that reach no service."""

    def __init__(self, path: Path) -> None:
        """Name the file; it is read when the first answer is asked for."""
        self.path = path

    def coefficients(self, request: Request, *, fresh: bool = False) -> Answer:
        """See `Source.coefficients`.

        Raises:
            ServiceUnavailableError: for fresh answers, which no file can give.
        """
        if fresh or request.options.get("alive"):
            raise ServiceUnavailableError(
                f"{self.path} holds coefficients at full width; a refresh at the current structure "
                "needs a service"
            )
        answers = self._read()
        exact = [row for row in answers if row["request"] == request.digest]
        candidates = exact or [row for row in answers if row["request"] is None]
        names = [row["device"] for row in answers]
        error: LatencyClientError = UnknownDeviceError(
            f"{self.path} has no coefficients for device {request.device!r}; it has: "
            f"{', '.join(sorted(set(names))) or 'none'}. Write it with save_answers"
        )
        if not candidates and request.device in names:
            error = StaleAnswerError(
                f"{self.path} has coefficients for {request.device!r}, but for another network or "
                "other options: the model's code has changed. Write the file anew with save_answers"
            )
        for row in candidates:
            answer = Answer.from_json(row["answer"], str(self.path))
            try:
                return request.check(answer, str(self.path))
            except StaleAnswerError as stale:
                error = stale
        raise error

    def _read(self) -> list[dict[str, Any]]:
        try:
            document = json.loads(self.path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ServiceUnavailableError(
                f"the file of coefficients {self.path} cannot be read: {error}"
            ) from None
        except ValueError as error:
            raise AnswerError(f"{self.path} is no JSON, or only a part of it: {error}") from None
        if isinstance(document, dict) and document.get("format") == _FILE_FORMAT:
            rows = document.get("answers")
            keys = {"request", "device", "answer"}
            if isinstance(rows, list) and all(isinstance(r, dict) and keys <= set(r) for r in rows):
                return rows
            raise AnswerError(f"{self.path} has no usable list of answers; write it anew")
        if isinstance(document, dict):
            # the bare answer, as curl saves it
            device = document.get("device")
            name = device.get("requested") if isinstance(device, dict) else None
            return [{"request": None, "device": str(name), "answer": document}]
        raise AnswerError(f"{self.path} is no file of coefficients: it holds no JSON object")


def save_answers(path: str | os.PathLike[str], answers: Iterable[tuple[Request, Answer]]) -> None:
    """Write answers to a file that `service="file:..."` reads."""
    rows = [
        {"request": request.digest, "device": request.device, "answer": answer.document}
        for request, answer in answers
    ]
    write_whole(Path(path), json.dumps({"format": _FILE_FORMAT, "answers": rows}))


def connect(
    service: str | Source,
    *,
    token: str | None = None,
    timeout_s: float = 10.0,
    cache: Cache | str | os.PathLike[str] | bool | None = True,
) -> Source:
    """A source of answers from what a user passes as `service`.

    Args:
        service: a URL, `file:` and a path, or a source of one's own.
        cache: a folder or a `Cache`; True: the default folder; None or False: no cache.

    Raises:
        ServiceError: if the text is neither a URL nor `file:` and a path.
    """
    if not isinstance(service, str):
        return service
    if service.startswith("file:"):
        return FileService(Path(service.removeprefix("file://").removeprefix("file:")))
    if not service.startswith(("http://", "https://")):
        raise ServiceError(
            f'service={service!r} is neither a URL ("http://127.0.0.1:8000") nor a file '
            '("file:coefficients.json")'
        )
    if cache is True:
        cache = Cache(default_folder())
    elif cache is False:
        cache = None
    elif cache is not None and not isinstance(cache, Cache):
        cache = Cache(Path(cache))
    return HttpService(service, token=token, timeout_s=timeout_s, cache=cache)
