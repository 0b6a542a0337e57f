"""The terminal: `latency-service`."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable

from rich.console import Console

from latency_service.core.errors import LatencyServiceError, UnboundDimensionError


def main() -> None:
    """Run `latency-service`."""
    from latency_service.cli.app import app

    _run(app)


def run_calibrate() -> None:
    """Run `calibrate`, which is `latency-service calibrate`."""
    from latency_service.cli.calibrate import alone

    _run(alone)


def _run(app: Callable[[], object]) -> None:
    """Run a command line; a user's error is one message and exit status 2."""
    messages = Console(stderr=True, highlight=False)
    try:
        app()
    except LatencyServiceError as error:
        messages.print("[bold red]error:[/] ", end="")
        messages.print(_message(error), markup=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        messages.print("stopped")
        sys.exit(130)
    except BrokenPipeError:
        # the reader of our output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def _message(error: LatencyServiceError) -> str:
    """What is wrong, with a remedy that can be typed."""
    if isinstance(error, UnboundDimensionError):
        options = " ".join(f"--dim {shlex.quote(name)}=128" for name in error.names)
        return f"the model names dimensions and leaves them open; bind them: {options}"
    return str(error)
