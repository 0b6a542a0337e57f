"""Print the OpenAPI document: `python -m latency_service.api.openapi > docs/openapi.json`."""

from __future__ import annotations

import json

from latency_service.api.app import create_app
from latency_service.settings import Settings


def document() -> str:
    """The OpenAPI document, as it is kept under docs/."""
    return json.dumps(create_app(Settings()).openapi(), indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    print(document(), end="")
