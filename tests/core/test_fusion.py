"""A fused chain costs the bytes of its ends and the FLOPs of all."""

from typing import Any

import numpy as np
import pytest

from latency_service.core.binding import Binding
from latency_service.core.costing import cost_model
from latency_service.core.costs import CostModel, Pruning
from latency_service.core.efficiency import Efficiency
from latency_service.core.family import FamilyModel
from latency_service.core.graph import graph_from_json
from latency_service.core.predict import assign
from latency_service.core.profile import FusionRules
from latency_service.core.scoring import evaluate, totals

HEIGHT, WIDTH, CHANNELS, FILTERS = 11, 13, 3, 17
PLACES, FLOAT = HEIGHT * WIDTH, 4
RULES = FusionRules(fold=("BatchNormalization", "Mul"), fuse=("Relu", "Add", "Sigmoid"))


def conv(name: str, source: str, channels: int) -> dict[str, Any]:
    shape = [FILTERS, channels, 1, 1]
    return {
        "name": name,
        "op": "Conv",
        "inputs": [source],
        "parameters": [{"role": "weight", "shape": shape}],
    }


def layer(name: str, op: str, *inputs: str) -> dict[str, Any]:
    return {"name": name, "op": op, "inputs": list(inputs)}


def costed(layers: list[dict[str, Any]], *outputs: str, fusion: bool = True) -> CostModel:
    graph = {
        "inputs": [{"name": "x", "shape": [1, CHANNELS, HEIGHT, WIDTH]}],
        "layers": layers,
        "outputs": list(outputs),
    }
    rules = RULES if fusion else None
    return cost_model(graph_from_json(graph), pruning=Pruning(freeze_outputs=False), fusion=rules)


def bytes_of(costs: CostModel) -> dict[str, float]:
    n_in, n_out = costs.read_times @ costs.sizes, costs.write_times @ costs.sizes
    return dict(zip(costs.names, evaluate(costs.bytes, n_in, n_out).tolist(), strict=True))


def test_a_folded_normalisation_and_a_fused_activation_move_nothing() -> None:
    chain = [
        conv("conv", "x", CHANNELS),
        layer("bn", "BatchNormalization", "conv"),
        layer("relu", "Relu", "bn"),
    ]

    costs = costed(chain, "relu")

    assert bytes_of(costs) == {
        "conv": FLOAT * (PLACES * CHANNELS + CHANNELS * FILTERS + PLACES * FILTERS),
        "bn": 0,
        "relu": 0,
    }
    host = costs.names.index("conv")
    assert {costs.names[i] for i in costs.fuses[host]} == {"bn", "relu"}
    assert costs.fused_into[costs.names.index("relu")] == host


def test_flops_weights_and_parameters_stay_on_their_rows() -> None:
    chain = [conv("conv", "x", CHANNELS), layer("bn", "BatchNormalization", "conv")]
    fused, plain = costed(chain, "bn"), costed(chain, "bn", fusion=False)

    for quantity in ("flops", "weights", "parameters"):
        assert (getattr(fused, quantity) == getattr(plain, quantity)).all()


def test_a_residual_addition_reads_its_other_operand_at_the_host() -> None:
    block = [
        conv("a", "x", CHANNELS),
        conv("b", "a", FILTERS),
        layer("sum", "Add", "b", "a"),
        layer("relu", "Relu", "sum"),
    ]

    costs = costed(block, "relu")

    assert bytes_of(costs)["b"] == FLOAT * (
        PLACES * FILTERS  # read a
        + FILTERS * FILTERS
        + PLACES * FILTERS  # read a again, for the sum
        + PLACES * FILTERS  # write the activation
    )
    assert bytes_of(costs)["sum"] == bytes_of(costs)["relu"] == 0


@pytest.mark.parametrize("outputs", [("relu", "conv"), ("relu", "other")])
def test_a_tensor_that_is_read_twice_or_returned_is_not_hidden(outputs: tuple[str, ...]) -> None:
    layers = [
        conv("conv", "x", CHANNELS),
        layer("relu", "Relu", "conv"),
        layer("other", "Tanh", "conv"),
    ]
    if "other" not in outputs:
        layers.pop()

    costs = costed(layers, *outputs)

    assert bytes_of(costs)["relu"] == FLOAT * 2 * PLACES * FILTERS


def test_elementwise_chains_fuse_into_their_first() -> None:
    layers = [layer("a", "Relu", "x"), layer("b", "Sigmoid", "a")]

    costs = costed(layers, "b")

    assert bytes_of(costs) == {"a": FLOAT * 2 * PLACES * CHANNELS, "b": 0}


def test_a_fused_chain_is_still_a_form_in_the_hosts_channels() -> None:
    block = [
        conv("a", "x", CHANNELS),
        conv("b", "a", FILTERS),
        layer("sum", "Add", "b", "a"),
    ]
    costs = costed(block, "sum")
    pruned = np.where([group.prunable for group in costs.groups], 5.0, costs.sizes)

    assert totals(costs, costs.bytes, pruned[None, :])[0] == FLOAT * (
        PLACES * CHANNELS + CHANNELS * 5 + PLACES * 5 + PLACES * 5 + 5 * 5 + PLACES * 5 + PLACES * 5
    )


@pytest.mark.parametrize("trips", [1, 3])
def test_what_runs_inside_a_loop_is_fused_too(trips: int) -> None:
    image = [1, CHANNELS, HEIGHT, WIDTH]
    body = {
        "inputs": [
            {"name": "i", "shape": [], "dtype": "int64"},
            {"name": "more", "shape": [], "dtype": "bool"},
            {"name": "now", "shape": image},
        ],
        "layers": [
            layer("go", "Identity", "more"),
            conv("mixed", "now", CHANNELS)
            | {"parameters": [{"role": "weight", "shape": [CHANNELS, CHANNELS, 1, 1]}]},
            layer("relu", "Relu", "mixed"),
            layer("sum", "Add", "relu", "now"),
        ],
        "outputs": ["go", "sum"],
    }
    loop = layer("loop", "Loop", "x") | {
        "attributes": {"M": trips, "cond": True, "body": body},
        "outputs": [{"name": "end"}],
    }

    costs = costed([loop], "end")

    # the convolution reads its input twice, once for the sum
    moved = FLOAT * (3 * PLACES * CHANNELS + CHANNELS * CHANNELS)
    found = {name.rsplit("/", 1)[-1]: size for name, size in bytes_of(costs).items()}
    assert found == {"loop": 0, "go": 0, "mixed": trips * moved, "relu": 0, "sum": 0}
    assert costs.fuses[costs.names.index("loop/body/mixed")]


def learned(name: str, op: str, source: str, *shape: int) -> dict[str, Any]:
    return layer(name, op, source) | {"parameters": [{"role": "weight", "shape": list(shape)}]}


def kernels_of(
    layers: list[dict[str, Any]], shape: list[int | str], binding: Binding | None = None,
    **rules: Any,
) -> tuple[str, ...]:  # fmt: skip
    """Families of the kernels that run."""
    graph = {
        "inputs": [{"name": "x", "shape": shape}],
        "layers": layers,
        "outputs": [layers[-1]["name"]],
    }
    efficiency = Efficiency({}, 0.0, ((2.0**30, 1e9),), 8, 0.04)
    rows = cost_model(
        graph_from_json(graph),
        binding or Binding(),
        fusion=FusionRules(**rules),
        efficiency=efficiency,
    )
    assert rows.kernels is not None
    return rows.kernels.families


@pytest.mark.parametrize(
    ("bias", "families"), [((7,), ("Gemm",)), ((5, 7), ("MatMul/learned", "Add"))]
)
def test_a_product_and_its_bias_run_as_one(
    bias: tuple[int, ...], families: tuple[str, ...]
) -> None:
    layers = [learned("product", "MatMul", "x", 3, 7), learned("sum", "Add", "product", *bias)]

    assert kernels_of(layers, [5, 3], patterns=("linear",)) == families


@pytest.mark.parametrize(
    ("shape", "merged"),
    [([2, 5, 3], True), (["n", 5, 3], False), ([2, "t", 3], False), (["n", 3], True)],
)
def test_a_bias_is_merged_where_the_runtime_knows_the_sizes(
    shape: list[int | str], merged: bool
) -> None:
    layers = [learned("product", "MatMul", "x", 3, 7), learned("sum", "Add", "product", 7)]
    binding = Binding(dims={dim: 11 for dim in shape if isinstance(dim, str)})
    alone = ("MatMul/learned", "Add/broadcast")

    for name, as_one in (("MatMul Add/learned", "MatMul/learned"), ("linear", "Gemm")):
        known = "patterns" if name == "linear" else "sequences"
        found = kernels_of(layers, shape, binding, **{known: (name,)}, static=(name,))
        assert found == ((as_one,) if merged else alone)


@pytest.mark.parametrize(
    ("shape", "merged"),
    [([1, 3, 7, 7], True), (["n", 3, 7, 7], True), (["n", 3, "h", 7], False)],
)
def test_a_shortcut_is_merged_into_images_of_known_size(
    shape: list[int | str], merged: bool
) -> None:
    layers = [
        conv("beside", "x", 3), conv("first", "x", 3), layer("sum", "Add", "first", "beside"),
    ]  # fmt: skip
    binding = Binding(dims={dim: 7 for dim in shape if isinstance(dim, str)})
    rule = ("Conv Add",)

    found = kernels_of(layers, shape, binding, sequences=rule, sized=rule)
    assert found.count("Add") == (not merged)


@pytest.mark.parametrize(
    ("op", "shape", "folds"),
    [
        ("Add", (FILTERS, 1, 1), True), ("Mul", (1, FILTERS, 1, 1), True),
        ("Mul", (), True), ("Add", (), False), ("Mul", (1,), False),
        ("Add", (1, FILTERS, HEIGHT, WIDTH), False),
    ],
)  # fmt: skip
def test_a_number_for_each_filter_folds_into_a_convolution(
    op: str, shape: tuple[int, ...], folds: bool
) -> None:
    layers = [conv("conv", "x", CHANNELS), learned("constant", op, "conv", *shape)]
    found = kernels_of(layers, [1, CHANNELS, HEIGHT, WIDTH], fold=("Add", "Mul"))
    assert (len(found) == 1) == folds


def test_nothing_folds_into_a_product_of_matrices() -> None:
    layers = [learned("product", "MatMul", "x", 3, 7), learned("sum", "Add", "product", 7)]
    assert len(kernels_of(layers, [5, 3], fold=("Add",))) == 2


@pytest.mark.parametrize(("shape", "merged"), [([1, 5, 3], True), ([1, "t", 3], False)])
def test_names_are_known_inside_a_loop(shape: list[int | str], merged: bool) -> None:
    body = {
        "inputs": [
            {"name": "i", "shape": [], "dtype": "int64"},
            {"name": "go", "shape": [], "dtype": "bool"}, {"name": "t", "shape": [1, 5, 3]},
        ],
        "layers": [
            layer("on", "Identity", "go"), learned("product", "MatMul", "t", 3, 3),
            learned("sum", "Add", "product", 3),
        ],
        "outputs": ["on", "sum"],
    }  # fmt: skip
    rule = ("MatMul Add/learned",)
    loop = layer("loop", "Loop", "x") | {
        "attributes": {"M": 3, "cond": True, "body": body}, "outputs": [{"name": "loop"}],
    }  # fmt: skip
    binding = Binding(dims={"t": 5} if "t" in shape else {})
    found = kernels_of([loop], shape, binding, sequences=rule, static=rule)
    assert ("Add/broadcast" not in found) == merged


def test_one_position_has_no_name() -> None:
    pooled = [
        layer("mean", "GlobalAveragePool", "x"), conv("a", "mean", 3), conv("b", "mean", 3),
        layer("sum", "Add", "a", "b"),
    ]  # fmt: skip
    rule = ("Conv Add",)
    binding = Binding(dims={"h": 7, "w": 5})

    assert "Add" not in kernels_of(pooled, [1, 3, "h", "w"], binding, sequences=rule, sized=rule)


@pytest.mark.parametrize(
    ("perm", "families"),
    [([0, 2, 1], ("MatMul/transposed",)), ([1, 2, 0], ("Transpose/last", "MatMul/activations"))],
)
def test_a_product_takes_a_transposed_operand_as_it_is(
    perm: list[int], families: tuple[str, ...]
) -> None:
    layers = [
        layer("turned", "Transpose", "x") | {"attributes": {"perm": perm}},
        layer("product", "MatMul", "x", "turned"),
    ]

    assert kernels_of(layers, [5, 5, 5], patterns=("transposed-product",)) == families


@pytest.mark.parametrize("measured", ["MatMul/activations", "MatMul/transposed"])
def test_a_turned_operand_is_known_to_profiles_that_do_not_tell_it(measured: str) -> None:
    layers = [
        layer("turned", "Transpose", "x") | {"attributes": {"perm": [0, 2, 1]}},
        layer("product", "MatMul", "x", "turned"),
    ]
    model = FamilyModel(1e-6, 1e9, 1e9, 1, (), (), (), (), 0.0, 0.1, 0.1, 50)
    efficiency = Efficiency({f"float32 {measured}": model}, 0.0, ((2.0**30, 1e9),), 8, 0.04)
    graph = {
        "inputs": [{"name": "x", "shape": [2, 5, 5]}], "layers": layers, "outputs": ["product"],
    }  # fmt: skip
    rules = FusionRules(patterns=("transposed-product",))
    costs = cost_model(graph_from_json(graph), fusion=rules, efficiency=efficiency)
    assert costs.kernels is not None
    (assigned,) = assign(costs.kernels, efficiency)
    assert assigned.exact
    assert assigned.model is model


def test_a_view_moves_nothing() -> None:
    part = layer("part", "Slice", "x") | {"attributes": {"starts": [0], "ends": [3], "axes": [1]}}
    layers = [part, layer("relu", "Relu", "part")]

    assert kernels_of(layers, [5, 6]) == ("Slice", "Relu")
    assert kernels_of(layers, [5, 6], views=("Slice",)) == ("Relu",)


def test_a_cast_to_the_same_dtype_is_free() -> None:
    layers = [
        layer("same", "Cast", "x") | {"attributes": {"to": "float32"}},
        layer("other", "Cast", "same") | {"attributes": {"to": "float16"}},
    ]

    assert kernels_of(layers, [5, 6]) == ("Cast",)
