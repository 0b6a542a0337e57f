"""Devices and their revisions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Response

from latency_service.api.dependencies import Bench, may_calibrate, may_read
from latency_service.api.problems import problems
from latency_service.api.schemas import (
    DeviceListOut,
    DeviceOut,
    HistoryOut,
    RevisionIn,
    RevisionOut,
    SamplesOut,
)
from latency_service.core import errors
from latency_service.core.profile import profile_from_json
from latency_service.usecases import devices

router = APIRouter(prefix="/v1/devices", tags=["devices"])
reading = [Depends(may_read)]

_LOOK_UP = problems(errors.TokenError, errors.UnknownDeviceError, errors.DatabaseError)
_LOOK_UP_REVISION = problems(
    errors.TokenError, errors.UnknownDeviceError, errors.UnknownRevisionError, errors.DatabaseError
)


@router.get(
    "",
    response_model=DeviceListOut,
    responses=problems(errors.TokenError, errors.OptionError, errors.DatabaseError),
    dependencies=reading,
)
def list_devices(
    bench: Bench,
    q: Annotated[str | None, Query(description="part of a name, alias, title or vendor")] = None,
    kind: Literal["gpu", "cpu", "tpu", "npu"] | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
    offset: Annotated[int, Query(ge=0)] = 0,
) -> Any:
    """All devices, by name."""
    return devices.list_devices(bench, q, kind, limit, offset)


@router.get(
    "/{device}", response_model=DeviceOut, responses=_LOOK_UP_REVISION, dependencies=reading
)
def show_device(device: str, bench: Bench, runtime: str | None = None) -> Any:
    """One device (name or alias) with its default profile, each rate with origin and source."""
    return devices.show_device(bench, device, runtime)


@router.get(
    "/{device}/revisions", response_model=HistoryOut, responses=_LOOK_UP, dependencies=reading
)
def history(device: str, bench: Bench) -> Any:
    """All revisions of a device, newest first."""
    return devices.history(bench, device)


@router.get(
    "/{device}/revisions/{revision}",
    response_model=RevisionOut,
    responses=_LOOK_UP_REVISION,
    dependencies=reading,
)
def show_revision(device: str, revision: str, bench: Bench) -> Any:
    """One revision, whole, by number or digest."""
    return devices.show_revision(bench, device, revision)


@router.get(
    "/{device}/revisions/{revision}/samples",
    response_model=SamplesOut,
    responses=_LOOK_UP_REVISION,
    dependencies=reading,
)
def samples(device: str, revision: str, bench: Bench) -> Any:
    """The raw measurements behind a revision."""
    return devices.samples(bench, device, revision)


@router.post(
    "/{device}/revisions",
    response_model=RevisionOut,
    status_code=201,
    responses={
        200: {"model": RevisionOut, "description": "a revision of this digest was there already"},
        **problems(
            errors.BodyError,
            errors.BodyTooLargeError,
            errors.ConflictError,
            errors.ProfileError,
            errors.TokenError,
            errors.DatabaseError,
        ),
    },
    dependencies=[Depends(may_calibrate)],
)
def append_revision(device: str, body: RevisionIn, bench: Bench, response: Response) -> Any:
    """Append a calibration; the device is created if it is new."""
    profile = profile_from_json(body.profile)
    revision, created = devices.append(
        bench, device, profile, body.origin, body.samples, body.source
    )
    response.status_code = 201 if created else 200
    response.headers["Location"] = f"/v1/devices/{revision.device}/revisions/{revision.revision}"
    return devices.revision_document(revision)
