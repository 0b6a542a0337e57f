"""The documentation says what is there, and all of it."""

from pathlib import Path

import pytest

from latency_service.core.ops.describe import operator_table
from latency_service.settings import Settings

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_setting_is_documented(name: str) -> None:
    assert f"`LATENCY_SERVICE_{name.upper()}`" in (ROOT / "docs" / "operations.md").read_text()


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_setting_describes_itself(name: str) -> None:
    assert Settings.model_fields[name].description


def test_op_table_in_docs_is_current() -> None:
    text = (ROOT / "docs" / "cost-model.md").read_text()
    table = text.split("<!-- operators -->\n")[1].split("<!-- /operators -->")[0].strip()

    assert table == operator_table(), "run: python -m latency_service.core.ops"


def test_no_file_of_the_readme_is_missing() -> None:
    text = (ROOT / "README.md").read_text()

    for word in text.replace("(", " ").replace(")", " ").split():
        if word.startswith(("docs/", "examples/", "device_profiles/")) and "." in word:
            assert (ROOT / word.strip("`,;:")).exists(), word
