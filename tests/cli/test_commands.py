import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from latency_service import __version__
from tests.api.graphs import two_layer
from tests.cli.conftest import EXAMPLES, Run

RESNET = EXAMPLES / "resnet50.json"


def ok(result) -> str:
    assert result.exit_code == 0, (result.stderr, result.exception)
    output: str = result.stdout
    return output


@pytest.mark.parametrize(
    "command",
    ["", "serve", "estimate", "coefficients", "score", "groups", "calibrate", "refit", "validate",
     "devices",
     "devices list", "devices show", "devices import", "devices export", "tokens create",
     "tokens list", "tokens revoke", "database upgrade"],
)  # fmt: skip
def test_every_command_explains_itself(run: Run, command: str) -> None:
    assert "Usage" in ok(run(*command.split(), "--help"))


def test_the_version_is_told(run: Run) -> None:
    assert ok(run("--version")).strip() == __version__


def test_coefficients_are_written_whole(run: Run, tmp_path: Path) -> None:
    output = tmp_path / "v100.json"

    assert ok(run("coefficients", RESNET, "-d", "v100", "-o", output, "--alive", "g1=3")) == ""

    answer = json.loads(output.read_text())
    assert answer["device"]["name"] == "v100-sxm2-16gb"
    assert answer["layers"][0]["n_out"] == 3
    assert os.listdir(tmp_path) == ["v100.json"]


def test_coefficients_are_for_one_device(refused: Callable[..., str], tmp_path: Path) -> None:
    output = tmp_path / "both.json"

    assert "one device" in refused("coefficients", RESNET, "-d", "v100", "-d", "p100", "-o", output)
    assert not output.exists()


def test_a_file_that_cannot_be_written_is_named(
    refused: Callable[..., str], tmp_path: Path
) -> None:
    output = tmp_path / "no" / "folder.json"

    assert "folder.json" in refused("coefficients", RESNET, "-d", "v100", "-o", output)


def test_random_sub_networks_are_scored_the_same_from_a_file(run: Run, tmp_path: Path) -> None:
    drawn = ok(run("score", RESNET, "-d", "v100", "-d", "p100", "--random", 7, "--csv"))
    header, *rows = [line.split(",") for line in drawn.splitlines()]
    groups = [name for name in header if name.startswith("g")]
    width = len(groups)
    assert len(rows) == 7
    matrix = np.array([[int(cell) for cell in row[:width]] for row in rows])
    as_csv, as_npy, as_json = (tmp_path / f"alive.{kind}" for kind in ("csv", "npy", "json"))
    lines = [",".join(groups), *(",".join(row[:width]) for row in rows)]
    as_csv.write_text("\n".join(lines) + "\n")
    np.save(as_npy, matrix)
    as_json.write_text(json.dumps(matrix.tolist()))
    named = ("--groups", ",".join(groups))

    common = ("score", RESNET, "-d", "v100", "-d", "p100")
    for path, extra in ((as_csv, ()), (as_npy, named), (as_json, named)):
        assert ok(run(*common, "--alive", path, *extra, "--csv")) == drawn
    out = tmp_path / "seconds.npy"
    ok(run(*common, "--alive", as_csv, "--npy", out))
    expected = [[float(cell) for cell in row[width : width + 2]] for row in rows]
    assert np.load(out).tolist() == expected


def test_scores_are_shown_as_a_table_and_as_json(run: Run) -> None:
    assert "v100-sxm2-16gb" in ok(run("score", RESNET, "-d", "v100", "--random", 30))
    answer = json.loads(ok(run("score", RESNET, "-d", "v100", "--random", 3, "--json")))
    assert len(answer["latency_s"]) == 3


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        ((), "--random"),
        (("--alive", "nowhere.csv"), "nowhere.csv"),
        (("--alive", "nowhere.npy"), "--groups"),
    ],
)
def test_scoring_needs_sub_networks(
    refused: Callable[..., str], arguments: tuple[str, ...], culprit: str
) -> None:
    assert culprit in refused("score", RESNET, "-d", "v100", *arguments)


def test_groups_are_listed(run: Run) -> None:
    assert "weight[0]" in ok(run("groups", RESNET))
    rows = json.loads(ok(run("groups", RESNET, "--json")))
    assert rows[0]["prunable"] is False


def test_devices_are_listed_and_shown(run: Run) -> None:
    assert "v100-sxm2-16gb" in ok(run("devices", "list", "--query", "v100"))
    page = json.loads(ok(run("devices", "list", "--kind", "tpu", "--json")))
    assert {row["kind"] for row in page["devices"]} == {"tpu"}
    shown = ok(run("devices", "show", "V100"))
    assert "125 TFLOP/s" in shown
    assert "datasheet" in shown
    assert json.loads(ok(run("devices", "show", "t4", "--runtime", "morphnet", "--json")))


def test_a_device_survives_export_and_import(
    run: Run, refused: Callable[..., str], tmp_path: Path
) -> None:
    toml = tmp_path / "board.toml"
    ok(run("devices", "export", "jetson-nano", "-o", toml))
    assert "was there already" in ok(run("devices", "import", toml))

    as_json = tmp_path / "board.json"
    ok(run("devices", "export", "jetson-nano", "--json", "-o", as_json))
    profiles = json.loads(as_json.read_text())
    profiles[0]["device"] |= {"slug": "my-nano", "aliases": []}
    as_json.write_text(json.dumps(profiles))
    assert "my-nano revision 1" in ok(run("devices", "import", as_json))
    assert "was there already" in ok(run("devices", "import", as_json))
    toml.write_text("device = 3")
    assert "board.toml" in refused("devices", "import", toml)


def test_tokens_are_made_listed_and_revoked(run: Run, refused: Callable[..., str]) -> None:
    secret = ok(run("tokens", "create", "runner")).strip()
    assert secret.startswith("lst_")
    listed = ok(run("tokens", "list"))
    assert "runner" in listed
    assert secret not in listed
    ok(run("tokens", "revoke", "runner"))
    assert "runner" in refused("tokens", "revoke", "runner")


def test_an_upgrade_is_done_once(run: Run) -> None:
    ok(run("database", "upgrade"))
    assert "0 migrations, 0 profiles" in ok(run("database", "upgrade"))


def program(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "latency_service", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | environment,
        check=False,
    )


def test_a_users_error_is_one_message_and_status_2(tmp_path: Path) -> None:
    result = program(
        "estimate", RESNET, "-d", "v1000", LATENCY_SERVICE_DATA_DIRECTORY=str(tmp_path)
    )

    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: no device is called 'v1000'")
    assert "Traceback" not in result.stderr


def test_open_dimensions_are_bound_by_what_the_message_says(tmp_path: Path) -> None:
    graph = two_layer()
    graph["inputs"][0]["shape"] = ["N", 3, "image height", "w"]
    for layer in graph["layers"]:
        layer["outputs"] = [{"name": layer["name"]}]
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(graph))
    data = {"LATENCY_SERVICE_DATA_DIRECTORY": str(tmp_path)}

    refusal = program("estimate", path, "-d", "v100", **data)
    remedy = refusal.stderr.partition("bind them: ")[2]

    assert refusal.returncode == 2
    assert shlex.split(remedy) == ["--dim", "image height=128", "--dim", "w=128"]
    assert program("estimate", path, "-d", "v100", *shlex.split(remedy), **data).returncode == 0


def test_an_unusable_database_is_one_message() -> None:
    result = program("devices", "list", LATENCY_SERVICE_DATABASE_URL="nonsense")

    assert result.returncode == 2
    assert "LATENCY_SERVICE_DATABASE_URL" in result.stderr.replace("\n", "")
