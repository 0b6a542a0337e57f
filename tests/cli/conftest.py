from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from latency_service.cli.app import app
from latency_service.core.errors import LatencyServiceError
from latency_service.settings import settings

EXAMPLES = Path(__file__).parents[2] / "examples"
Run = Callable[..., Result]


@pytest.fixture(scope="module")
def data_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def run(data_directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """The command line over a database of this module's own."""
    monkeypatch.setenv("LATENCY_SERVICE_DATA_DIRECTORY", str(data_directory))
    settings.cache_clear()
    runner = CliRunner()

    def invoke(*arguments: object) -> Result:
        return runner.invoke(app, [str(argument) for argument in arguments])

    yield invoke
    settings.cache_clear()


@pytest.fixture
def refused(run: Run) -> Callable[..., str]:
    """The message that a command is refused with."""

    def invoke(*arguments: object) -> str:
        result = run(*arguments)
        assert result.exit_code != 0
        assert result.stdout == ""
        error = result.exception
        return str(error) if isinstance(error, LatencyServiceError) else result.stderr

    return invoke
