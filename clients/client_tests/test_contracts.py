"""What the client may import, and that nothing in its tables and trees is forgotten."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from latency_client import errors

CLIENTS = Path(__file__).parents[1]
PACKAGE = CLIENTS / "latency_client"
MODULES = sorted(PACKAGE.rglob("*.py"))


def imported(path: Path) -> set[str]:
    """First parts of the names of all modules that a file imports, wherever it does."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def allowed(path: Path) -> set[str]:
    names = {"latency_client", "numpy", *sys.stdlib_module_names}
    folder = path.relative_to(PACKAGE).parts[0]
    if folder == "torch":
        names.add("torch")
    elif folder == "keras":
        names |= {"keras", "tensorflow"}
    elif path.name == "service.py":
        names.add("httpx")
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_imports_its_own_framework_and_nothing_of_the_service(path: Path) -> None:
    assert imported(path) <= allowed(path)


def test_importing_the_client_imports_no_framework_and_no_server() -> None:
    code = (
        "import sys, latency_client;"
        "print(*(m for m in ('torch', 'tensorflow', 'keras', 'jax', 'fastapi', 'sqlalchemy', "
        "'pydantic', 'latency_service') if m in sys.modules))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=CLIENTS, capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == []


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_a_missing_framework_is_a_sentence_with_the_command(framework: str) -> None:
    code = f"import sys; sys.modules[{framework!r}] = None; import latency_client.{framework}"
    run = subprocess.run([sys.executable, "-c", code], cwd=CLIENTS, capture_output=True, text=True)
    assert f"Run: pip install 'latency-client[{framework}]'" in run.stderr


def test_the_distribution_asks_for_numpy_and_httpx_only() -> None:
    project = tomllib.loads((CLIENTS / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = sorted(line.partition(">")[0] for line in project["dependencies"])
    assert names == ["httpx", "numpy"]
    assert {"torch", "keras"} <= set(project["optional-dependencies"])


def test_the_tree_of_errors_is_drawn_whole() -> None:
    def below(kind: type[Exception]) -> set[str]:
        return {kind.__name__}.union(*(below(sub) for sub in kind.__subclasses__()))

    drawn = (errors.__doc__ or "").split()
    assert below(errors.LatencyClientError) <= set(drawn)


def test_every_public_name_exists() -> None:
    import latency_client

    for name in latency_client.__all__:
        assert hasattr(latency_client, name)
    assert sorted(latency_client.__all__) == latency_client.__all__
