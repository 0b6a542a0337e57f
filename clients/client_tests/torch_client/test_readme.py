"""The guide's code runs, from its first line to its last, and its names exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("torch")

import latency_client.torch as client

GUIDE = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_the_guides_code_runs(
    service_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LATENCY_CLIENT_CACHE", str(tmp_path))
    blocks = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    assert len(blocks) >= 6
    code = "\n".join(blocks).replace("http://127.0.0.1:8000", service_url)
    exec(compile(code, "clients/README.md", "exec"), {})


def test_names_of_classes_in_the_guide_exist() -> None:
    named = set(re.findall(r"`(\w+Regularizer)\b", GUIDE)) - {"LatencyRegularizer"}
    assert len(named) >= 4
    for name in named:
        assert hasattr(client, name), name


def test_every_public_name_of_the_family_is_sorted_and_there() -> None:
    for name in client.__all__:
        assert hasattr(client, name)
