"""ONNX files as layer graphs.

The weights are cut out before parsing (`latency_service/ingest/strip.py`): costs depend on shapes
only. No path in the file is followed. What of a node is activation, parameter or setting is told by
`latency_service/ingest/operands.py`.
"""

from __future__ import annotations

import onnx
import onnx.inliner
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from latency_service.core.costing import TakesLong
from latency_service.core.errors import GraphError, ModelFileError, Problem
from latency_service.core.graph import Dim, GraphInput, LayerGraph
from latency_service.ingest.constants import LARGEST_EXTENT, dtype_name
from latency_service.ingest.declared import Model
from latency_service.ingest.nodes import GraphReader
from latency_service.ingest.strip import strip_weights
from latency_service.ingest.text import check_text

# Nodes after model-local functions have been put in place of their calls.
_NODE_LIMIT = 200_000
# What is read and costed within some twenty milliseconds.
_FEW_NODES, _SHORT_BYTES = 350, 4 << 20

# What exporters write for a dimension they know nothing about.
_NAMELESS = frozenset({"", "?", "-1", "None", "unk"})

_MAGIC = {
    b"PK\x03\x04": "a zip archive, perhaps of PyTorch: export it with torch.onnx.export",
    b"\x80\x02": "a pickle, perhaps of PyTorch: export it with torch.onnx.export",
    b"\x89HDF": "an HDF5 file, perhaps of Keras: convert it with tf2onnx",
    b"\x1f\x8b": "compressed with gzip: unpack it",
}


def layer_graph_from_onnx(data: bytes, name: str = "", briefly: bool = False) -> LayerGraph:
    """The network that an ONNX file holds.

    Args:
        data: the file.
        name: of the network; empty takes the one in the file.
        briefly: whether to give up, early, where it would take long.

    Raises:
        TakesLong: only if `briefly`.
        ModelFileError: if the bytes are no usable ONNX model.
        GraphError: if the graph in it cannot be costed.
    """
    proto = _parse(data, briefly)
    if briefly and (proto.functions or len(proto.graph.node) > _FEW_NODES):
        raise TakesLong
    proto = _inlined(proto)
    # held until all is read: protobuf makes its objects anew where nobody does
    tensors = proto.graph.initializer[:]
    initialized = {tensor.name for tensor in tensors}
    initialized.update(tensor.values.name for tensor in proto.graph.sparse_initializer)
    infos = [info for info in proto.graph.input if info.name not in initialized]
    inputs = _inputs(infos)
    symbols = frozenset(dim for i in inputs for dim in i.shape if isinstance(dim, str))
    model = Model(_opset(proto), symbols)
    if name:
        proto.graph.name = name
    return GraphReader(model, proto.graph).read(inputs)


def _parse(data: bytes, briefly: bool) -> onnx.ModelProto:
    for magic, remedy in _MAGIC.items():
        if data.startswith(magic):
            raise ModelFileError(f"the file is no ONNX model but {remedy}")
    if not data:
        raise ModelFileError("the file is empty; send an ONNX model")
    try:
        structure = strip_weights(data, briefly=briefly)
        if briefly and len(structure) > _SHORT_BYTES:
            raise TakesLong
        proto: onnx.ModelProto = onnx.ModelProto.FromString(structure)
    except DecodeError as error:
        raise ModelFileError(
            f"the file is truncated or no ONNX model: {error}. Check it with "
            "onnx.checker.check_model"
        ) from error
    if not proto.HasField("graph") or not proto.graph.output:
        raise ModelFileError(
            "the file holds no network: its graph is missing or has no output. Check it with "
            "onnx.checker.check_model"
        )
    if not proto.opset_import:
        raise ModelFileError(
            "the file names no operator set, so the meaning of its operators is unknown: add "
            "opset_import, or export it again"
        )
    return proto


def _opset(proto: onnx.ModelProto) -> int:
    versions = [o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")]
    return max(versions, default=1)


def _inputs(infos: list[onnx.ValueInfoProto]) -> tuple[GraphInput, ...]:
    problems: list[Problem] = []
    found: list[GraphInput] = []
    check_text([dim.dim_param for info in infos for dim in info.type.tensor_type.shape.dim])
    batch: Dim | None = None
    for info in infos:
        tensor = info.type.tensor_type
        where = f"inputs.{info.name}"
        if not info.name:
            raise ModelFileError("an input of the model has no name")
        if not info.type.HasField("tensor_type"):
            kind = info.type.WhichOneof("value") or "no type"
            problems.append(Problem(None, where, f"is {kind}; only tensors can be costed"))
            continue
        if not tensor.HasField("shape"):
            detail = (
                f"input {info.name!r} has no shape, not even a rank: export the model with input "
                "shapes, or set them with onnx.tools.update_model_dims"
            )
            problems.append(Problem(None, where, detail))
            continue
        shape = tuple(
            _dim(dim, f"{info.name}_dim{axis}") for axis, dim in enumerate(tensor.shape.dim)
        )
        axis: int | None = 0 if shape else None
        if batch is None:
            batch = shape[0] if shape else None
        elif isinstance(batch, str) and shape and isinstance(shape[0], int):
            # (2, batch, 128): a recurrent state; without the batch's name: nothing to scale
            axis = shape.index(batch) if batch in shape else None
        dtype = dtype_name(tensor.elem_type, f"input {info.name!r}")
        found.append(GraphInput(info.name, shape, dtype, axis))
    if problems:
        raise GraphError(problems)
    return tuple(found)


def _dim(dim: onnx.TensorShapeProto.Dimension, nameless: str) -> Dim:
    if dim.dim_value > LARGEST_EXTENT:
        raise ModelFileError(f"dimension {nameless} is {dim.dim_value}, which no tensor has")
    if dim.dim_value > 0:
        return dim.dim_value
    return nameless if dim.dim_param.strip() in _NAMELESS else dim.dim_param


# --- functions inside the model ------------------------------------------------------------------


def _inlined(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its local functions put in place of their calls."""
    if not proto.functions:
        return proto
    _check_functions(proto)
    try:
        return onnx.inliner.inline_local_functions(proto)
    except Exception as error:  # onnx raises whatever its C++ raises
        raise ModelFileError(
            f"the model's functions cannot be inlined: {error}. Export it without functions, or "
            "run onnx.inliner.inline_local_functions"
        ) from error


def _check_functions(proto: onnx.ModelProto) -> None:
    """Refuse functions that call themselves or grow without bound: inlining would not end."""
    Key = tuple[str, str, str]
    bodies: dict[Key, onnx.FunctionProto] = {
        (f.domain, f.name, f.overload): f for f in proto.functions
    }
    sizes: dict[Key, int] = {}
    open_calls: set[Key] = set()

    def nodes_of(nodes: object) -> int:
        total = 0
        for node in nodes:  # type: ignore[attr-defined]
            total += size((node.domain, node.op_type, node.overload))
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    total += nodes_of(attribute.g.node)
        return total

    def size(key: Key) -> int:
        if key not in bodies:
            return 1
        if key in open_calls:
            raise ModelFileError(f"the model's function {key[1]!r} calls itself")
        if key not in sizes:
            open_calls.add(key)
            sizes[key] = nodes_of(bodies[key].node)
            open_calls.discard(key)
        return sizes[key]

    try:
        total = nodes_of(proto.graph.node)
    except RecursionError:
        raise ModelFileError("the model's functions call each other too deeply") from None
    if total > _NODE_LIMIT:
        raise ModelFileError(
            f"the model has {total:,} nodes once its functions are inlined; the limit is "
            f"{_NODE_LIMIT:,}"
        )
