"""A server as the destination of a calibration, over HTTP with a token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any
from urllib.parse import quote

import httpx

from latency_service.core.errors import CalibrationError, OptionError, TokenError
from latency_service.core.profile import Device, Profile, profile_from_json, profile_to_json
from latency_service.usecases.destinations import Appended, Known

_CONNECT_S, _ANSWER_S = 10.0, 120.0


class Server:
    """The database behind a running `latency-service serve`.

    Every method raises CalibrationError if the server cannot be reached or refuses what it is
    sent, and TokenError if it refuses the token.

    Args:
        transport: how requests travel; None: over the network.
    """

    def __init__(
        self, url: str, token: str | None, transport: httpx.BaseTransport | None = None
    ) -> None:
        self.url = url.rstrip("/")
        self.options = f" --server {self.url} --token TOKEN"
        if not self.url.startswith(("http://", "https://")):
            raise OptionError(
                f"--server {url!r} is no address; it must look like http://localhost:8000"
            )
        if not token or not token.isascii():
            raise OptionError(
                "--server needs --token (or LATENCY_SERVICE_TOKEN); make one on the server with "
                "`latency-service tokens create NAME`"
            )
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {token}"},
            timeout=httpx.Timeout(_ANSWER_S, connect=_CONNECT_S),
            follow_redirects=True,
            transport=transport,
        )

    def __enter__(self) -> Server:
        """Give the connections back at the end of a block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connections."""
        self._client.close()

    def check(self) -> None:
        """Find out whether the server is there and takes the token.

        An empty profile is sent: the token is looked at first, then the profile is refused.
        """
        reply = self._send("POST", "/v1/devices/-/revisions", {"profile": {}})
        if reply.status_code != 422:
            raise self._refusal(reply)

    def devices(self) -> list[Device]:
        """All devices, without their facts."""
        return [
            Device(row["name"], row["title"], row["vendor"], row["kind"], tuple(row["aliases"]))
            for row in self._get("/v1/devices")["devices"]
        ]

    def find(self, name: str) -> Known | None:
        """A device by name or alias; None if there is none."""
        path = f"/v1/devices/{quote(name.strip(), safe='')}"
        found = self._get(path, missing_ok=True)
        if found is None:
            return None
        ideal = self._get(f"{path}?runtime=ideal", missing_ok=True)
        if ideal is None:
            return Known(self._profile(found).device, None)
        sheet = self._profile(ideal)
        return Known(sheet.device, sheet)

    def latest(self, device: str, runtime: str) -> Profile | None:
        """The latest measured profile of a device for a runtime; None if there is none."""
        path = f"/v1/devices/{quote(device, safe='')}/revisions"
        past = self._get(path, missing_ok=True)
        for row in past["revisions"] if past else ():
            if row["runtime"] == runtime and row["origin"] == "measured":
                whole = self._get(f"{path}/{row['revision']}")
                return profile_from_json(whole["profile"], f"the answer of {self.url}")
        return None

    def append(
        self,
        profile: Profile,
        origin: str,
        samples: Sequence[Mapping[str, Any]],
        source: str | None,
    ) -> Appended:
        """Append a revision with its samples; the server does it in one transaction."""
        slug = profile.device.slug
        body = {
            "profile": profile_to_json(profile),
            "origin": origin,
            "samples": list(samples),
            "source": source,
        }
        reply = self._send("POST", f"/v1/devices/{slug}/revisions", body)
        if reply.status_code not in (200, 201):
            raise self._refusal(reply)
        row = self._document(reply)
        return Appended(
            slug, row["revision"], row["runtime"], row["digest"], reply.status_code == 201, self.url
        )

    def _profile(self, device: Mapping[str, Any]) -> Profile:
        return profile_from_json(device["default"]["profile"], f"the answer of {self.url}")

    def _get(self, path: str, missing_ok: bool = False) -> Any:
        reply = self._send("GET", path)
        if reply.status_code == 404 and missing_ok and _problem(reply) is not None:
            return None
        if reply.status_code != 200:
            raise self._refusal(reply)
        return self._document(reply)

    def _send(self, method: str, path: str, body: Any = None) -> httpx.Response:
        try:
            return self._client.request(method, self.url + path, json=body)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise OptionError(f"--server {self.url!r} is no address: {error}") from None
        except httpx.TimeoutException:
            raise CalibrationError(
                f"server {self.url} did not answer in time. Check that it is well, and try again"
            ) from None
        except httpx.TransportError as error:
            raise CalibrationError(
                f"server {self.url} cannot be reached: {error}. Check the address, and that "
                "`latency-service serve` runs there"
            ) from None

    def _document(self, reply: httpx.Response) -> Any:
        try:
            return reply.json()
        except ValueError:
            raise self._stranger() from None

    def _stranger(self) -> CalibrationError:
        return CalibrationError(
            f"{self.url} answers, but not as a latency_service does; check the address"
        )

    def _refusal(self, reply: httpx.Response) -> Exception:
        detail = _problem(reply)
        if detail is None:
            return self._stranger()
        if reply.status_code in (401, 403):
            return TokenError(
                f"server {self.url} refuses the token: {detail}. Make one there with "
                "`latency-service tokens create NAME` and pass it as --token"
            )
        return CalibrationError(f"server {self.url} answered {reply.status_code}: {detail}")


def _problem(reply: httpx.Response) -> str | None:
    """The detail of a problem document; None if the reply is none."""
    try:
        document = reply.json()
    except ValueError:
        return None
    detail = document.get("detail") if isinstance(document, dict) else None
    return detail.rstrip(".") if isinstance(detail, str) else None
