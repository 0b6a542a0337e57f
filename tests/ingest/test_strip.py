from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from latency_service.core.errors import ModelFileError
from latency_service.ingest.strip import PAYLOAD_LIMIT_BYTES, strip_weights
from tests.ingest.onnx_files import model, node, numbers, tensor, weight

PAYLOADS = (
    "raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data",
    "string_data",
)  # fmt: skip


def without_payload(tensor: onnx.TensorProto) -> onnx.TensorProto:
    copy = onnx.TensorProto()
    copy.CopyFrom(tensor)
    for field in PAYLOADS:
        copy.ClearField(field)
    return copy


def large() -> onnx.TensorProto:
    return weight("large", 97, 101)


def test_a_large_initializer_keeps_everything_but_its_elements() -> None:
    whole = model([node("Relu", "x")], weights=[large(), weight("small", 5, 7)])
    stripped = onnx.ModelProto.FromString(strip_weights(whole.SerializeToString()))
    assert stripped.graph.initializer[0] == without_payload(large())
    assert stripped.graph.initializer[1] == weight("small", 5, 7)
    whole.graph.initializer[0].CopyFrom(without_payload(large()))
    assert stripped == whole


def test_a_small_model_is_returned_as_it_is() -> None:
    data = model([node("Relu", "x")]).SerializeToString()
    assert strip_weights(data) is data


@pytest.mark.parametrize("typed", [False, True])
def test_weights_are_found_wherever_a_model_keeps_them(typed: bool) -> None:
    array = np.ones((97, 101), np.float32)
    big = (
        helper.make_tensor("w", onnx.TensorProto.FLOAT, array.shape, array.ravel().tolist())
        if typed
        else numpy_helper.from_array(array, "w")
    )
    inner = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], value=big)], "inner", [], [tensor("c", [97, 101])]
    )
    sparse = helper.make_sparse_tensor(
        weight("values", 9973), numbers("indices", *range(9973)), [100_000]
    )
    whole = model(
        [
            helper.make_node("Constant", [], ["k"], value=big),
            helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner),
        ]
    )
    whole.graph.sparse_initializer.append(sparse)
    whole.functions.append(
        helper.make_function(
            "local", "f", [], ["c"],
            [helper.make_node("Constant", [], ["c"], value=big)], [helper.make_opsetid("", 18)],
        )
    )  # fmt: skip
    data = whole.SerializeToString()
    stripped = strip_weights(data)
    assert len(stripped) < 2000 < 6 * PAYLOAD_LIMIT_BYTES < len(data)
    found = onnx.ModelProto.FromString(stripped)
    assert found.graph.node[0].attribute[0].t == without_payload(big)
    assert found.graph.node[1].attribute[1].g.node[0].attribute[0].t == without_payload(big)
    assert found.functions[0].node[0].attribute[0].t == without_payload(big)
    assert list(found.graph.sparse_initializer[0].dims) == [100_000]


@given(
    sizes=st.lists(st.integers(0, 20_000), max_size=5),
    dtype=st.sampled_from([np.float32, np.int8, np.int64]),
    limit=st.sampled_from([64, 1000, PAYLOAD_LIMIT_BYTES]),
    doc=st.text(max_size=300),
)
@settings(max_examples=60, deadline=None)
def test_stripping_changes_nothing_but_large_payloads(
    sizes: list[int], dtype: type, limit: int, doc: str
) -> None:
    weights = [weight(f"w{i}", size, dtype=dtype) for i, size in enumerate(sizes)]
    nodes = [node("Relu", "x", "a"), node("Gemm", "a w0", "y", transB=1, alpha=0.5)]
    whole = model(nodes, weights=weights, doc_string=doc)
    stripped = onnx.ModelProto.FromString(strip_weights(whole.SerializeToString(), limit))
    for kept, given_ in zip(stripped.graph.initializer, weights, strict=True):
        assert kept in (given_, without_payload(given_))
        if given_.ByteSize() <= limit:
            assert kept == given_
        assert kept.ByteSize() <= limit + 100
        kept.CopyFrom(given_)
    assert stripped == whole


def test_a_file_cut_off_anywhere_is_refused_with_the_place() -> None:
    data = model(
        [node("Conv", "x large", "a"), node("Relu", "a")], weights=[weight("large", 64, 3, 11, 13)]
    ).SerializeToString()
    for end in (5, 40, len(data) // 2, len(data) - 1):
        with pytest.raises(ModelFileError, match=r"truncated or no ONNX model.*at byte \d+"):
            strip_weights(data[:end])


@pytest.mark.parametrize(
    "data",
    [b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x00\x00", b"\x0b\x0c", b"\x3a\x80"],
    ids=["length of 11 bytes", "field 0", "group", "unfinished length"],
)
def test_what_is_no_protobuf_is_refused(data: bytes) -> None:
    with pytest.raises(ModelFileError, match="no ONNX model"):
        strip_weights(data)


def test_graphs_nested_too_deeply_are_refused() -> None:
    def field(number: int, body: bytes) -> bytes:
        size, out = len(body), bytes([number << 3 | 2])
        while size > 127:
            out, size = out + bytes([size & 127 | 128]), size >> 7
        return out + bytes([size]) + body

    graph = field(5, b"\x4a" + b"\x80\x80\x04" + bytes(65536))
    for _ in range(60):
        graph = field(1, field(5, field(6, graph)))
    with pytest.raises(ModelFileError, match="nested more than 100 deep"):
        strip_weights(field(7, graph))
