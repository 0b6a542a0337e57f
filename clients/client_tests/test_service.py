"""Answers over HTTP, from the cache and from files; what happens when there are none."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from client_tests.networks import residual_concat, two_layers
from latency_client import errors
from latency_client.cache import Cache
from latency_client.graph import LayerGraph
from latency_client.request import Request
from latency_client.service import FallbackWarning, FileService, HttpService, connect, save_answers
from latency_client.wire import Answer

V100 = Request(two_layers(), "v100")


class Down:
    """A network on which nothing answers; counts the attempts."""

    def __init__(self) -> None:
        self.attempts = 0

    def post(self, url: str, /, **_: Any) -> httpx.Response:
        self.attempts += 1
        raise httpx.ConnectError("Connection refused")


class Scripted:
    """Answers with prepared statuses, then lets another client answer."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.requests: list[dict[str, Any]] = []

    def post(self, url: str, /, **kwargs: Any) -> httpx.Response:
        self.requests.append(kwargs)
        if self.statuses:
            return httpx.Response(self.statuses.pop(0))
        return httpx.post(url, timeout=60, **kwargs)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses between attempts, not waited for."""
    found: list[float] = []
    monkeypatch.setattr("latency_client.service.time.sleep", found.append)
    return found


def test_an_answer_names_its_revision_and_every_layer(service: HttpService) -> None:
    answer = service.coefficients(V100)

    assert answer.device.name == "v100-sxm2-16gb"
    assert answer.device.digest.startswith("sha256:")
    assert [layer.name for layer in V100.graph.layers] == [layer.name for layer in answer.layers]
    flops = answer.layers[answer.layer_index["a"]].flops
    assert flops.per_pair == 2 * 7 * 11 * 5 * 5


def test_what_may_pass_is_retried_with_growing_pauses(
    service_url: str, pauses: list[float]
) -> None:
    client = Scripted(429, 502, 503, 504)
    answer = HttpService(service_url, client=client).coefficients(V100)

    assert answer.device.requested == "v100"
    assert len(client.requests) == 5
    for attempt, pause in enumerate(pauses):
        assert 0.5 * 0.25 * 2**attempt <= pause <= 1.5 * 0.25 * 2**attempt


def test_a_refusal_is_not_retried(service_url: str) -> None:
    client = Scripted(500)
    with pytest.raises(errors.RefusedError):
        HttpService(service_url, client=client).coefficients(V100)
    assert len(client.requests) == 1


def test_the_token_travels_as_a_bearer(service_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for token, environment, header in (("a", "b", "Bearer a"), (None, "b", "Bearer b")):
        monkeypatch.setenv("LATENCY_SERVICE_TOKEN", environment)
        client = Scripted()
        HttpService(service_url, token=token, client=client).coefficients(V100)
        assert client.requests[0]["headers"]["Authorization"] == header


def test_no_service_and_no_cache_is_an_error_that_says_what_to_do(pauses: list[float]) -> None:
    client = Down()
    with pytest.raises(errors.ServiceUnavailableError, match=r"latency-service serve.*file:"):
        HttpService("http://127.0.0.1:9", client=client, retries=2).coefficients(V100)
    assert client.attempts == 3


def test_a_wrong_device_is_named_with_what_there_is(service: HttpService) -> None:
    with pytest.raises(errors.UnknownDeviceError, match="v1000"):
        service.coefficients(Request(two_layers(), "v1000"))


def test_an_unknown_operator_is_refused_by_name(service: HttpService) -> None:
    graph = two_layers()
    layers = tuple(x._replace(op="Frobnicate") if x.name == "a.relu" else x for x in graph.layers)
    broken = LayerGraph(graph.name, graph.inputs, layers, graph.outputs)
    with pytest.raises(errors.RefusedError, match=r"a\.relu.*Frobnicate") as caught:
        service.coefficients(Request(broken, "v100"))
    assert caught.value.status == 422
    assert caught.value.kind == "unknown-op"


def test_something_else_at_the_url_is_said() -> None:
    class Blog:
        def post(self, url: str, /, **_: Any) -> httpx.Response:
            return httpx.Response(200, text="<html>")

    with pytest.raises(errors.AnswerError, match="URL of a latency service"):
        HttpService("http://blog", client=Blog()).coefficients(V100)


# --- cache ---------------------------------------------------------------------------------------


def test_a_fresh_cached_answer_needs_no_service(service_url: str, cache: Cache) -> None:
    first = HttpService(service_url, cache=cache).coefficients(V100)
    client = Down()
    again = HttpService("http://elsewhere", cache=cache, client=client).coefficients(V100)

    assert again == first
    assert client.attempts == 0


def test_an_old_cached_answer_stands_in_and_says_so(
    service_url: str, tmp_path: Path, pauses: list[float]
) -> None:
    cache = Cache(tmp_path, ttl_s=0)
    first = HttpService(service_url, cache=cache).coefficients(V100)
    with pytest.warns(FallbackWarning, match=r"hours ago: v100-sxm2-16gb, revision 1 \(sha256:"):
        again = HttpService("http://elsewhere", cache=cache, client=Down()).coefficients(V100)
    assert again.device == first.device


def test_an_answer_whose_revision_is_pinned_never_grows_old(
    service_url: str, tmp_path: Path
) -> None:
    cache = Cache(tmp_path, ttl_s=0)
    service = HttpService(service_url, cache=cache)
    digest = service.coefficients(V100).device.digest
    pinned = V100.with_options(revision=digest)
    first = service.coefficients(pinned)
    client = Down()
    assert HttpService("http://x", cache=cache, client=client).coefficients(pinned) == first
    assert client.attempts == 0


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_a_half_written_cache_file_is_named_and_fetched_again(
    service_url: str, cache: Cache, keep: int
) -> None:
    service = HttpService(service_url, cache=cache)
    first = service.coefficients(V100)
    path = cache.path(V100.digest)
    path.write_text(path.read_text()[:keep])

    with pytest.raises(errors.CacheError, match=str(path)):
        cache.load(V100.digest)
    with pytest.warns(FallbackWarning, match=r"damaged.*fetched again"):
        assert service.coefficients(V100) == first
    assert cache.load(V100.digest) is not None


def test_a_cache_file_whose_numbers_were_changed_is_damaged(service_url: str, cache: Cache) -> None:
    HttpService(service_url, cache=cache).coefficients(V100)
    path = cache.path(V100.digest)
    kept = json.loads(path.read_text())
    kept["answer"] = kept["answer"].replace('"a"', '"z"')
    path.write_text(json.dumps(kept))
    with pytest.raises(errors.CacheError, match="checksum"):
        cache.load(V100.digest)


def test_a_damaged_cache_and_no_service_is_an_error(
    service_url: str, cache: Cache, pauses: list[float]
) -> None:
    HttpService(service_url, cache=cache).coefficients(V100)
    cache.path(V100.digest).write_text("{")
    down = HttpService("http://elsewhere", cache=cache, client=Down())
    with (
        pytest.warns(FallbackWarning, match="damaged"),
        pytest.raises(errors.ServiceUnavailableError),
    ):
        down.coefficients(V100)


def test_a_cache_that_cannot_be_written_is_a_warning(service_url: str, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    service = HttpService(service_url, cache=Cache(blocked / "cache"))
    with pytest.warns(UserWarning, match="cannot be (read|written)"):
        assert service.coefficients(V100).device.requested == "v100"


def test_readers_never_see_half_a_file(cache: Cache) -> None:
    documents = [{"n": n, "text": "x" * 20_000} for n in range(2)]
    cache.save("sha256:k", documents[0])
    seen: list[Any] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            entry = cache.load("sha256:k")
            assert entry is not None
            seen.append(entry.document["n"])

    thread = threading.Thread(target=read)
    thread.start()
    for n in range(60):
        cache.save("sha256:k", documents[n % 2])
    stop.set()
    thread.join()
    assert seen
    assert len(list(cache.folder.iterdir())) == 1


def test_a_fresh_answer_asks_the_service_once(service_url: str, cache: Cache) -> None:
    HttpService(service_url, cache=cache).coefficients(V100)
    client = Down()
    service = HttpService("http://elsewhere", cache=cache, client=client)
    with pytest.raises(errors.ServiceUnavailableError, match="one attempt"):
        service.coefficients(V100, fresh=True)
    assert client.attempts == 1


# --- files ---------------------------------------------------------------------------------------


def test_a_file_stands_in_for_the_service(service: HttpService, tmp_path: Path) -> None:
    requests = [Request(two_layers(), device) for device in ("v100", "p100")]
    answers = [service.coefficients(request) for request in requests]
    path = tmp_path / "coefficients.json"
    save_answers(path, zip(requests, answers, strict=True))

    file = connect(f"file:{path}")
    assert [file.coefficients(request) for request in requests] == answers


def test_the_bare_answer_is_a_file_too(service: HttpService, tmp_path: Path) -> None:
    answer = service.coefficients(V100)
    path = tmp_path / "answer.json"
    path.write_text(json.dumps(answer.document))
    assert FileService(path).coefficients(V100) == answer


def changed_width() -> Request:
    return Request(two_layers(first=11), "v100")


def other_layers() -> Request:
    return Request(residual_concat(), "v100")


def other_batch() -> Request:
    return Request(two_layers(), "v100", {"batch_size": 8})


@pytest.mark.parametrize("request_of", [changed_width, other_layers, other_batch])
@pytest.mark.parametrize("bare", [True, False])
def test_a_file_for_another_network_is_refused(
    service: HttpService, tmp_path: Path, request_of: Callable[[], Request], bare: bool
) -> None:
    answer = service.coefficients(V100)
    path = tmp_path / "answer.json"
    if bare:
        path.write_text(json.dumps(answer.document))
    else:
        save_answers(path, [(V100, answer)])
    with pytest.raises(errors.StaleAnswerError, match=r"answer\.json"):
        FileService(path).coefficients(request_of())


def test_a_file_without_the_device_says_which_it_has(service: HttpService, tmp_path: Path) -> None:
    path = tmp_path / "answers.json"
    save_answers(path, [(V100, service.coefficients(V100))])
    with pytest.raises(errors.UnknownDeviceError, match=r"'p100'; it has: v100"):
        FileService(path).coefficients(Request(two_layers(), "p100"))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (None, errors.ServiceUnavailableError),
        ("", errors.AnswerError),
        ('{"device": {', errors.AnswerError),
        ("[]", errors.AnswerError),
        ('{"device": {"name": "v100"}}', errors.AnswerError),
        ('{"format": "latency-client coefficients 1"}', errors.AnswerError),
    ],
)
def test_an_unusable_file_is_an_error_that_names_it(
    tmp_path: Path, text: str | None, error: type[Exception]
) -> None:
    path = tmp_path / "answers.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(error, match=r"answers\.json"):
        FileService(path).coefficients(V100)


def test_an_answer_cut_by_hand_is_refused(service: HttpService) -> None:
    document = dict(service.coefficients(V100).document)
    document["groups"] = document["groups"][:-1]
    with pytest.raises(errors.AnswerError, match="names channel group"):
        Answer.from_json(document, "here")


def test_a_service_is_a_url_or_a_file() -> None:
    with pytest.raises(errors.ServiceError, match="neither a URL"):
        connect("localhost:8000")
