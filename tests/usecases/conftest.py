from collections.abc import Iterator
from pathlib import Path

import pytest

from latency_service.settings import Settings
from latency_service.usecases import Workbench, open_workbench

SHEET = """
[device]
slug = "abacus-5"
aliases = ["abacus"]
kind = "cpu"

[memory]
bytes_per_s = 13e9
origin = "datasheet"
source = "sheet"

[[compute]]
dtype = "float32"
flops_per_s = 67e9
default = true
origin = "datasheet"
source = "sheet"

[[compute]]
dtype = "int8"
flops_per_s = 131e9
default = true
origin = "datasheet"
source = "sheet"
"""


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Workbench]:
    """An installation that knows one device."""
    profiles = tmp_path / "profiles"
    profiles.mkdir()
    (profiles / "abacus-5.toml").write_text(SHEET)
    made = open_workbench(
        Settings(data_directory=tmp_path, profiles_directory=profiles, profile_refresh_s=0)
    )
    yield made
    made.close()
