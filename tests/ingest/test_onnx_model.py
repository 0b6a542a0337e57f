from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from latency_service.core.bind import bind
from latency_service.core.binding import Binding
from latency_service.core.canonical import canonical_text
from latency_service.core.errors import GraphError, LatencyServiceError, ModelFileError
from latency_service.core.graph import GraphInput, Layer, LayerGraph, Parameter
from latency_service.ingest import layer_graph_from_onnx, parse_layer_graph, read_network
from tests.ingest.onnx_files import INT64, model, node, numbers, tensor, weight


def read(*nodes: onnx.NodeProto, **parts: Any) -> LayerGraph:
    return layer_graph_from_onnx(model(nodes, **parts).SerializeToString())


def only(graph: LayerGraph) -> Layer:
    (layer,) = graph.layers
    return layer


def shape_of(graph: LayerGraph, name: str = "y", **dims: int) -> tuple[int, ...]:
    network = bind(graph, Binding(dims=dims))
    return {t.name: t.shape for n in network.nodes for t in n.outputs}[name]


# --- inputs --------------------------------------------------------------------------------------


def test_initializers_are_no_inputs_and_nameless_dimensions_get_a_name() -> None:
    graph = read(
        node("Add", "x w"),
        inputs=[tensor("x", [None, 3, "T", 0]), tensor("w", [3, 1, 1])],
        weights=[weight("w", 3, 1, 1)],
    )
    assert graph.inputs == (GraphInput("x", ("x_dim0", 3, "T", "x_dim3"), "float32", 0),)


def test_the_batch_axis_of_a_further_input_is_where_the_batch_is_named() -> None:
    inputs = [tensor("x", ["N", 5]), tensor("h", [2, "N", 5]), tensor("r", [], INT64)]
    graph = read(node("Add", "x h"), inputs=inputs)
    assert [i.batch_axis for i in graph.inputs] == [0, 1, None]


def test_an_input_without_a_rank_is_refused_by_name() -> None:
    with pytest.raises(GraphError, match="input 'x' has no shape"):
        read(node("Relu", "x"), inputs=[tensor("x", None)])


# --- parameters ----------------------------------------------------------------------------------


def test_weights_are_parameters_by_role_with_the_initializer_as_id() -> None:
    layer = only(
        read(
            node("Conv", "x w b", pads=[1, 1, 1, 1]),
            weights=[weight("w", 5, 3, 3, 3), weight("b", 5)],
        )
    )
    assert layer.inputs == ("x",)
    assert layer.parameters == (
        Parameter("weight", (5, 3, 3, 3), "float32", "w"),
        Parameter("bias", (5,), "float32", "b"),
    )
    assert layer.attributes == {"pads": [1, 1, 1, 1]}


@pytest.mark.parametrize(("transposed", "stored"), [(0, (5, 7)), (1, (7, 5))])
def test_a_gemm_weight_is_written_out_by_in(transposed: int, stored: tuple[int, int]) -> None:
    graph = read(
        node("Gemm", "x w b", transB=transposed),
        inputs=[tensor("x", ["N", 5])],
        weights=[weight("w", *stored), weight("b", 1, 7)],
    )
    layer = only(graph)
    assert layer.parameters is not None
    assert [p.shape for p in layer.parameters] == [(7, 5), (7,)]
    assert layer.attributes["transB"] == 1
    assert shape_of(graph) == (1, 7)


def test_a_gemm_with_a_learned_first_factor_becomes_a_matmul() -> None:
    graph = read(
        node("Gemm", "w x", transA=1),
        inputs=[tensor("x", [5, 11])],
        weights=[weight("w", 5, 7)],
    )
    assert only(graph).op == "MatMul"
    assert only(graph).attributes["weight_input"] == 0
    assert shape_of(graph) == (7, 11)


def test_a_learned_first_factor_of_matmul_is_marked() -> None:
    graph = read(node("MatMul", "w x"), inputs=[tensor("x", [5, 11])], weights=[weight("w", 7, 5)])
    assert only(graph).attributes == {"weight_input": 0}
    assert shape_of(graph) == (7, 11)


def test_a_weight_seen_through_other_operators_stays_the_same_parameter() -> None:
    graph = read(
        node("Transpose", "w", "t", perm=[1, 0]),
        node("MatMul", "x t", "a"),
        node("Identity", "w", "i"),
        node("MatMul", "a i"),
        inputs=[tensor("x", ["N", 5])],
        weights=[weight("w", 7, 5)],
    )
    assert [layer.parameters for layer in graph.layers] == [
        (Parameter("weight", (5, 7), "float32", "w"),),
        (Parameter("weight", (7, 5), "float32", "w"),),
    ]


def test_a_dequantized_weight_is_stored_as_integers() -> None:
    graph = read(
        node("DequantizeLinear", "w s", "f"),
        node("Conv", "x f"),
        weights=[weight("w", 5, 3, 3, 3, dtype=np.int8), weight("s")],
    )
    assert only(graph).parameters == (Parameter("weight", (5, 3, 3, 3), "int8", "w"),)


def test_a_single_number_is_a_setting_and_not_learned() -> None:
    graph = read(
        node("Constant", "", "half", value_float=0.5),
        node("Mul", "x half", "a"),
        node("Add", "a w"),
        weights=[weight("w", 3, 1, 1)],
    )
    scale, shift = graph.layers
    assert scale.parameters == (Parameter("state", (), "float32"),)
    assert shift.parameters == (Parameter("weight", (3, 1, 1), "float32", "w"),)


def test_an_embedding_is_a_learned_table() -> None:
    graph = read(
        node("Gather", "w x"),
        inputs=[tensor("x", ["N", "T"], INT64)],
        weights=[weight("w", 17, 7)],
    )
    assert only(graph).parameters == (Parameter("weight", (17, 7), "float32", "w"),)
    assert shape_of(graph, N=2, T=3) == (2, 3, 7)


def test_a_learned_piece_of_a_concat_keeps_its_place() -> None:
    graph = read(
        node("Concat", "token x", axis=1),
        inputs=[tensor("x", [1, 5, 7])],
        weights=[weight("token", 1, 2, 7)],
    )
    assert only(graph).attributes["parameter_inputs"] == [0]
    assert shape_of(graph) == (1, 7, 7)


def test_the_pieces_of_a_quantised_concat_come_with_scales_and_zero_points() -> None:
    inputs = [tensor("x", [1, 3], TensorProto.UINT8), tensor("z", [1, 5], TensorProto.UINT8)]
    settings = [weight("s"), weight("p", dtype=np.uint8), weight("w", 1, 7, dtype=np.uint8)]
    graph = read(
        helper.make_node(
            "QLinearConcat", ["s", "p", "x", "s", "p", "w", "s", "p", "z", "s", "p"], ["y"],
            domain="com.microsoft", axis=1,
        ),
        inputs=inputs, weights=settings,
    )  # fmt: skip
    layer = only(graph)
    assert layer.inputs == ("x", "z")
    assert [parameter.shape for parameter in layer.parameters or ()] == [(1, 7)]
    assert layer.attributes["parameter_inputs"] == [1]
    assert shape_of(graph) == (1, 15)


@pytest.mark.parametrize(("transposed", "stored"), [(0, (5, 7)), (1, (7, 5))])
def test_a_quantised_gemm_is_a_gemm_with_scales(transposed: int, stored: tuple[int, int]) -> None:
    weights = [weight("s"), weight("p", dtype=np.uint8), weight("w", *stored, dtype=np.int8),
               weight("b", 7, dtype=np.int32)]  # fmt: skip
    graph = read(
        helper.make_node(
            "QGemm", ["x", "s", "p", "w", "s", "p", "b", "s", "p"], ["y"],
            domain="com.microsoft", transB=transposed,
        ),
        inputs=[tensor("x", ["N", 5], TensorProto.UINT8)], weights=weights,
    )  # fmt: skip
    held = {p.role: p.shape for p in only(graph).parameters or () if p.shape}
    assert held == {"weight": (7, 5), "bias": (7,)}
    assert shape_of(graph, N=3) == (3, 7)


def test_an_empty_piece_of_a_concat_is_nothing() -> None:
    graph = read(
        node("Concat", "cache x token", axis=1),
        inputs=[tensor("x", [1, 5, 7])],
        weights=[weight("cache", 1, 0, 7), weight("token", 1, 2, 7)],
    )
    assert only(graph).attributes["parameter_inputs"] == [1]
    assert shape_of(graph) == (1, 7, 7)


def test_a_recurrent_layer_keeps_its_states_and_drops_sequence_lengths() -> None:
    graph = read(
        node("LSTM", "x w r b lens h c", "y", hidden_size=7, direction="forward"),
        inputs=[
            tensor("x", [11, 2, 5]), tensor("h", [1, 2, 7]), tensor("c", [1, 2, 7]),
            tensor("lens", [2], TensorProto.INT32),
        ],
        weights=[weight("w", 1, 28, 5), weight("r", 1, 28, 7), weight("b", 1, 56)],
    )  # fmt: skip
    layer = only(graph)
    assert layer.inputs == ("x", "h", "c")
    assert [p.role for p in layer.parameters or ()] == ["weight", "recurrence", "bias"]
    assert shape_of(graph) == (11, 1, 2, 7)


def test_labels_of_einsum_follow_the_operands() -> None:
    graph = read(
        node("Einsum", "w x", equation="oi,bi->bo"),
        inputs=[tensor("x", [2, 5])],
        weights=[weight("w", 7, 5)],
    )
    assert only(graph).attributes["equation"] == "bi,oi->bo"
    assert shape_of(graph) == (2, 7)


# --- settings and shape arithmetic ---------------------------------------------------------------


def test_constant_operands_become_attributes() -> None:
    graph = read(
        node("Slice", "x starts ends axes"),
        weights=[numbers("starts", 1), numbers("ends", 9), numbers("axes", 2)],
    )
    assert only(graph).inputs == ("x",)
    assert only(graph).attributes == {"starts": [1], "ends": [9], "axes": [2]}


def test_a_computed_operand_keeps_all_of_them_as_inputs() -> None:
    graph = read(
        node("Shape", "x", "s", start=2, end=3),
        node("Slice", "x starts s axes"),
        weights=[numbers("starts", 1), numbers("axes", 2)],
    )
    (layer,) = (layer for layer in graph.layers if layer.op == "Slice")
    assert layer.inputs == ("x", "starts", "s", "axes")
    assert shape_of(graph) == (1, 3, 10, 13)


def test_the_target_of_a_reshape_is_followed_through_arithmetic() -> None:
    graph = read(
        node("Shape", "x", "s"),
        node("Gather", "s zero", "n"),
        node("Unsqueeze", "n zero1", "n1"),
        node("Cast", "n1", "f", to=TensorProto.FLOAT),
        node("Mul", "f three", "g"),
        node("Cast", "g", "rows", to=INT64),
        node("Concat", "rows rest", "target", axis=0),
        node("Reshape", "x target"),
        weights=[
            numpy_helper.from_array(np.array(0, np.int64), "zero"), numbers("zero1", 0),
            numpy_helper.from_array(np.array([3.0], np.float32), "three"), numbers("rest", -1),
        ],
    )  # fmt: skip
    assert shape_of(graph, N=2) == (2 * 3, 11 * 13)


def test_infinite_bounds_are_left_out() -> None:
    high = numpy_helper.from_array(np.array(np.inf, np.float32), "high")
    layer = only(read(node("Clip", "x low high"), weights=[weight("low"), high]))
    assert layer.attributes == {"min": 1.0}


def test_an_optional_input_that_is_left_out_keeps_the_others_in_place() -> None:
    graph = read(
        node("Resize", "x _ scales", mode="nearest"),
        weights=[numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales")],
    )
    assert only(graph).attributes["scales"] == [1, 1, 2, 2]
    assert shape_of(graph) == (1, 3, 22, 26)


def test_a_constant_without_role_is_written_by_a_layer() -> None:
    graph = read(
        node("Expand", "token shape", "a"),
        node("Add", "x a"),
        inputs=[tensor("x", ["N", 5, 7])],
        weights=[weight("token", 1, 1, 7), numbers("shape", 1, 5, 7)],
    )
    # constants all the way: folded into one operand
    assert [layer.op for layer in graph.layers] == ["Add"]
    graph = read(
        node("Shape", "x", "s"),
        node("Expand", "token s"),
        inputs=[tensor("x", ["N", 5, 7])],
        weights=[weight("token", 1, 1, 7)],
    )
    (held,) = (layer for layer in graph.layers if layer.op == "Constant")
    assert held.parameters == (Parameter("weight", (1, 1, 7), "float32", "token"),)
    assert shape_of(graph, N=2) == (2, 5, 7)


# --- old operator sets ---------------------------------------------------------------------------


def test_softmax_meant_axis_one_before_opset_13() -> None:
    assert only(read(node("Softmax", "x"), opset=11)).attributes == {"axis": 1}
    assert only(read(node("Softmax", "x"), opset=13)).attributes == {}


def test_the_first_resize_had_its_scales_second() -> None:
    scales = numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales")
    graph = read(node("Resize", "x scales"), weights=[scales], opset=10)
    assert shape_of(graph) == (1, 3, 22, 26)


def test_scales_of_a_group_normalization_were_per_group_until_opset_20() -> None:
    graph = read(
        node("GroupNormalization", "x s b", num_groups=2),
        inputs=[tensor("x", ["N", 6, 5, 5])],
        weights=[weight("s", 2), weight("b", 2)],
        opset=18,
    )
    assert [p.role for p in only(graph).parameters or ()] == ["weight", "weight"]


def test_elementwise_operands_were_aligned_by_axis() -> None:
    graph = read(
        node("Add", "x b", axis=1, broadcast=1),
        inputs=[tensor("x", [1, 3, 11, 13])],
        weights=[weight("b", 3)],
        opset=6,
    )
    assert only(graph).parameters == (Parameter("weight", (3, 1, 1), "float32", "b"),)


# --- control flow, functions, unknown operators --------------------------------------------------


def test_inner_graphs_see_the_constants_around_them() -> None:
    branch = helper.make_graph(
        [node("MatMul", "x w", "z")], "branch", [], [helper.make_empty_tensor_value_info("z")]
    )
    fixed = helper.make_graph(
        [node("Constant", "", "k", value_floats=[1.0, 2.0])],
        "fixed", [], [helper.make_empty_tensor_value_info("k")],
    )  # fmt: skip
    graph = read(
        helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=fixed),
        inputs=[tensor("x", ["N", 5]), tensor("c", [], TensorProto.BOOL)],
        weights=[weight("w", 5, 7)],
    )
    layer = only(graph)
    then, otherwise = layer.attributes["then_branch"], layer.attributes["else_branch"]
    assert then.layers[0].parameters == (Parameter("weight", (5, 7), "float32", "w"),)
    assert otherwise.layers[0].op == "Constant"
    assert otherwise.outputs == ("k",)


def test_local_functions_are_put_in_place_of_their_calls() -> None:
    whole = model([helper.make_node("Twice", ["x"], ["y"], domain="local")])
    body = [node("Relu", "a", "b"), node("Sigmoid", "b", "c")]
    opsets = [helper.make_opsetid("", 18)]
    whole.functions.append(helper.make_function("local", "Twice", ["a"], ["c"], body, opsets))
    whole.opset_import.append(helper.make_opsetid("local", 1))
    graph = layer_graph_from_onnx(whole.SerializeToString())
    assert [layer.op for layer in graph.layers] == ["Relu", "Sigmoid"]


def function(name: str, *calls: str) -> onnx.FunctionProto:
    nodes = [helper.make_node(call, ["a"], [f"b{i}"], domain="l") for i, call in enumerate(calls)]
    return helper.make_function("l", name, ["a"], ["b0"], nodes, [helper.make_opsetid("l", 1)])


def test_functions_that_never_end_are_refused() -> None:
    whole = model([helper.make_node("f", ["x"], ["y"], domain="l")])
    whole.functions.extend([function("f", "g"), function("g", "f")])
    with pytest.raises(ModelFileError, match="calls itself"):
        layer_graph_from_onnx(whole.SerializeToString())


def test_functions_that_grow_without_bound_are_refused() -> None:
    whole = model([helper.make_node("f0", ["x"], ["y"], domain="l")])
    whole.functions.extend(function(f"f{i}", *[f"f{i + 1}"] * 10) for i in range(9))
    with pytest.raises(ModelFileError, match="1,000,000,000 nodes"):
        layer_graph_from_onnx(whole.SerializeToString())


def test_operators_of_other_domains_carry_its_name_and_the_stated_shape() -> None:
    whole = model(
        [helper.make_node("Warp", ["x", "w", "k"], ["z"], domain="acme"), node("Relu", "z")],
        weights=[weight("w", 5, 7), numbers("k", 2)],
    )
    whole.graph.value_info.append(tensor("z", ["N", 5, 11, 13]))
    warp = next(
        layer
        for layer in layer_graph_from_onnx(whole.SerializeToString()).layers
        if layer.op == "acme.Warp"
    )
    assert warp.outputs[0].shape == ("N", 5, 11, 13)
    assert warp.parameters == (Parameter("weight", (5, 7), "float32", "w"),)
    assert warp.inputs == ("x", "k")


# --- the graph as a whole ------------------------------------------------------------------------


def test_nodes_that_reach_no_output_are_dropped_and_order_does_not_matter() -> None:
    graph = read(node("Relu", "a"), node("Sigmoid", "x", "a"), node("Tanh", "x", "unused"))
    assert [layer.op for layer in graph.layers] == ["Sigmoid", "Relu"]


def test_a_cycle_is_refused() -> None:
    with pytest.raises(ModelFileError, match="cycle"):
        read(node("Add", "x b", "a"), node("Relu", "a", "b"), outputs=["b"])


def test_constant_outputs_are_dropped_and_inputs_may_be_outputs() -> None:
    graph = read(node("Relu", "x"), weights=[weight("w", 3)], outputs=["y", "w", "x"])
    assert graph.outputs == ("y", "x")


def test_layer_names_are_unique() -> None:
    graph = read(
        node("Relu", "x", "a", name="same"), node("Relu", "a", "b", name="same"), node("Relu", "b")
    )
    assert sorted(layer.name for layer in graph.layers) == ["Relu_b", "Relu_y", "same"]


def test_what_onnx_gives_is_what_json_accepts() -> None:
    graph = read(
        node("Conv", "x w", "a"), node("Clip", "a low _"),
        weights=[weight("w", 5, 3, 3, 3), weight("low")],
    )  # fmt: skip
    assert parse_layer_graph(canonical_text(graph).encode()).layers == graph.layers


# --- files that are none -------------------------------------------------------------------------


@pytest.mark.parametrize("small", [True, False])
def test_a_tensor_in_another_file_is_refused_by_name(small: bool) -> None:
    outside = weight("w", 5, 3, 3, 3)
    outside.ClearField("raw_data")
    outside.external_data.add(key="location", value="../../etc/passwd")
    if small:
        outside.data_location = TensorProto.EXTERNAL
    with pytest.raises(ModelFileError, match=r"tensor 'w' keeps its elements in another file"):
        read(node("Conv", "x w"), weights=[outside])


def test_a_tensor_in_another_file_is_refused_in_an_attribute_too() -> None:
    outside = weight("w", 5)
    outside.ClearField("raw_data")
    outside.data_location = TensorProto.EXTERNAL
    with pytest.raises(ModelFileError, match="in another file"):
        read(node("Constant", "", "k", value=outside), node("Add", "x k"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"PK\x03\x04....", "zip archive"),
        (b"hello, this is no model", "no ONNX model"),
        (model([]).SerializeToString()[:4], "no network|truncated"),
        (onnx.ModelProto(ir_version=8).SerializeToString(), "no network"),
    ],
)
def test_what_is_no_model_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        read_network(data)


def test_a_model_without_operator_set_is_refused() -> None:
    whole = model([node("Relu", "x")])
    del whole.opset_import[:]
    with pytest.raises(ModelFileError, match="operator set"):
        layer_graph_from_onnx(whole.SerializeToString())


def test_a_node_without_an_operator_is_refused_by_name() -> None:
    with pytest.raises(ModelFileError, match="node 'blank' names no operator"):
        read(node("", "x", name="blank"))


def test_a_name_that_is_no_text_is_refused() -> None:
    whole = model([node("Relu", "x", name="stem")]).SerializeToString()
    with pytest.raises(ModelFileError, match="no UTF-8 text: b'st"):
        read_network(whole.replace(b"stem", b"st\xffm"))


def test_a_file_cut_off_or_damaged_anywhere_gives_an_error_or_a_graph() -> None:
    whole = model(
        [node("Conv", "x w", "a"), node("Reshape", "a s", "b"), node("Gemm", "b v")],
        weights=[weight("w", 5, 3, 3, 3), numbers("s", 0, -1), weight("v", 495, 7)],
    ).SerializeToString()[:3000]
    random = np.random.default_rng(7)
    damaged = [whole[:end] for end in range(0, 300, 7)]
    for _ in range(400):
        copy = bytearray(whole)
        copy[random.integers(len(copy))] = random.integers(256)
        damaged.append(bytes(copy))
    for data in damaged:
        with contextlib.suppress(LatencyServiceError):
            read_network(data)
