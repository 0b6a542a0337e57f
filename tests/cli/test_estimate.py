import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.api.graphs import two_layer
from tests.cli.conftest import EXAMPLES, Run

INCEPTION = EXAMPLES / "inception_v2.json"


def test_the_slides_table_can_be_read_off(run: Run) -> None:
    result = run(
        "estimate", INCEPTION, "--device", "p100", "--device", "v100", "--unit", "ns",
        "--filter", "Conv2d_2c_3x3$|Mixed_3c/Branch_2/Conv2d_0a_1x1$|Mixed_5c/Branch_3/Conv2d_0b",
    )  # fmt: skip

    assert result.exit_code == 0, result.stderr
    for number in ("74584.2", "5549.06", "2762.38", "1187.84", "1381.19", "833.422"):
        assert number in result.stdout
    assert "assumed: float32 tensors multiplied at the float16 rate" in result.stdout


def test_json_is_the_apis_answer_for_each_device(run: Run) -> None:
    one = json.loads(run("estimate", INCEPTION, "-d", "p100", "--json").stdout)
    two = json.loads(run("estimate", INCEPTION, "-d", "p100", "-d", "v100", "--json").stdout)

    assert one["device"]["name"] == "p100-pcie-16gb"
    assert [answer["device"]["name"] for answer in two] == ["p100-pcie-16gb", "v100-sxm2-16gb"]
    assert two[0] == one


def test_csv_has_a_line_a_layer_and_device(run: Run) -> None:
    output = run("estimate", INCEPTION, "-d", "p100", "-d", "v100", "--csv").stdout

    rows = list(csv.DictReader(io.StringIO(output)))
    assert len(rows) == 2 * 233
    assert float(rows[0]["latency_s"]) > 0


def test_layers_are_sorted_and_cut(run: Run) -> None:
    output = run(
        "estimate", INCEPTION, "-d", "v100", "--csv", "--sort", "latency", "--top", 5
    ).stdout

    latencies = [float(row["latency_s"]) for row in csv.DictReader(io.StringIO(output))]
    assert len(latencies) == 5
    assert latencies == sorted(latencies, reverse=True)


def test_shapes_and_dims_bind_names(run: Run, tmp_path: Path) -> None:
    graph = two_layer()
    graph["inputs"][0]["shape"] = ["N", 3, "height", 37]
    for layer in graph["layers"]:
        layer["outputs"] = [{"name": layer["name"]}]
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(graph))

    by_shape = run("estimate", path, "-d", "p100", "--shape", "image=1,3,31,37", "--json")
    by_dim = run("estimate", path, "-d", "p100", "--dim", "height=31", "--json")

    assert by_shape.exit_code == 0, by_shape.exception
    assert json.loads(by_shape.stdout) == json.loads(by_dim.stdout)


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        ((), "--device"),
        (("-d", "v1000"), "v1000"),
        (("-d", "v100", "--shape", "image"), "image"),
        (("-d", "v100", "--shape", "image=1,x"), "'x'"),
        (("-d", "v100", "--shape", "picture=1,3,224,224"), "picture"),
        (("-d", "v100", "--dim", "Q=3"), "Q"),
        (("-d", "v100", "--sort", "colour"), "colour"),
        (("-d", "v100", "--filter", "("), "("),
        (("-d", "v100", "--unit", "parsec"), "parsec"),
        (("-d", "v100", "--math", "float33"), "float33"),
        (("-d", "v100", "--runtime", "abacus"), "abacus"),
        (("-d", "v100", "--model", "calibrated"), "calibrated"),
        (("-d", "v100", "--batch-size", "0"), "batch-size"),
        (("-d", "v100", "--unknown-ops", "guess"), "unknown_ops"),
    ],
)
def test_a_wrong_option_is_named(
    refused: Callable[..., str], arguments: tuple[str, ...], culprit: str
) -> None:
    assert culprit in refused("estimate", INCEPTION, *arguments)


def test_a_file_that_is_none_is_named(refused: Callable[..., str], tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"\x08\x09\x0a")

    assert "nowhere.onnx" in refused("estimate", tmp_path / "nowhere.onnx", "-d", "v100")
    assert refused("estimate", tmp_path, "-d", "v100")
    assert refused("estimate", broken, "-d", "v100")
