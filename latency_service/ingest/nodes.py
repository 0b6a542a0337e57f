"""From the nodes of an ONNX graph to layers; inner graphs of If, Loop and Scan likewise."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx

from latency_service.core.errors import ModelFileError
from latency_service.core.graph import (
    GraphInput,
    Layer,
    LayerGraph,
    Output,
    Parameter,
    layer_graph,
    made,
)
from latency_service.core.masks import MASKING
from latency_service.core.ops import OPS
from latency_service.core.ops.op import Op
from latency_service.ingest.attributes import (
    CODED_DTYPES,
    constant_value,
    from_sparse,
    modernise,
    operand_names,
    read_attributes,
)
from latency_service.ingest.constants import (
    Constant,
    as_setting,
    dtype_name,
    fold,
    from_tensor,
)
from latency_service.ingest.declared import Model, TensorType
from latency_service.ingest.masks import mask_attributes
from latency_service.ingest.operands import Operands, parameter, sort_operands
from latency_service.ingest.order import HOLDS_GRAPHS, Wired, needed_nodes
from latency_service.ingest.text import check_text

_STANDARD = ("", "ai.onnx")
# Operators whose output has a shape that only data can tell, or graphs inside them.
_DATA_DECIDES = HOLDS_GRAPHS | {"NonMaxSuppression", "NonZero", "Compress", "Unique"}
# The same name means another operator in com.microsoft.
_OTHER_IN_MICROSOFT = frozenset({"Attention"})
_BROADCAST_BY_AXIS = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "PRelu"})


@dataclass(slots=True)
class GraphReader:
    """Reads one graph.

    Attributes:
        constants: by tensor name, those of the graphs around it included.
        foldable: tensors that follow from shapes alone.
        tensors: names of all that layers may read, those around it included.
    """

    model: Model
    proto: onnx.GraphProto
    constants: dict[str, Constant] = field(default_factory=dict)
    foldable: set[str] = field(default_factory=set)
    tensors: set[str] = field(default_factory=set)
    layers: list[Layer] = field(default_factory=list)
    used_names: set[str] = field(default_factory=set)
    written_constants: set[str] = field(default_factory=set)
    declared: dict[str, TensorType | None] | None = None
    inner: bool = False

    def read(self, inputs: tuple[GraphInput, ...]) -> LayerGraph:
        """All layers that an output depends on.

        Args:
            inputs: the graph's own.

        Raises:
            GraphError: if the wiring is wrong.
            ModelFileError: for what cannot be read.
        """
        graph = self.proto
        outer = frozenset(self.tensors)
        check_text((graph.name, *(tensor.name for tensor in inputs)))
        for tensor in inputs:
            self.tensors.add(tensor.name)
            self.constants.pop(tensor.name, None)
            self.foldable.discard(tensor.name)
        self.read_initializers({tensor.name for tensor in inputs} if self.inner else set())
        outputs = [info.name for info in graph.output]
        for node in needed_nodes(graph, outputs):
            self.read_node(node)
        if self.inner:
            for name in dict.fromkeys(outputs):
                if name in self.constants:
                    self.write_constant(name)
        else:
            outputs = [name for name in outputs if name not in self.constants]
        return layer_graph(inputs, self.layers, tuple(outputs), graph.name, outer)

    def read_initializers(self, fed: set[str]) -> None:
        """Take the weights' names and shapes."""
        for tensor in self.proto.initializer:
            name = tensor.name
            if name not in fed:
                self.constants[name] = from_tensor(tensor, name, True)
        for sparse in self.proto.sparse_initializer:
            name = sparse.values.name
            self.constants[name] = from_sparse(sparse, name)

    def read_node(self, node: Wired) -> None:
        """Write the layer of a node, or note that what it writes is constant."""
        proto, name, op_type, domain, given, written = node
        if not op_type:
            raise ModelFileError(f"node {name!r} names no operator")
        op_name, op = _operator(op_type, domain)
        constants, foldable = self.constants, self.foldable
        if self.inner:
            for output in written:
                # it may reuse a name from around it
                constants.pop(output, None)
                foldable.discard(output)
        if op_name == "Constant" and written:
            constant = constant_value(proto, written[0])
            if constant is not None:
                constants[written[0]] = constant
                return
        opset = self.model.opset
        attributes = read_attributes(proto, self.read_inner)
        modernise(op_name, attributes, opset)
        dtype = _stated_dtype(proto, op_name, attributes)
        held = list(map(constants.get, given))
        if (
            op is not None
            and given
            and (
                None not in held
                or all(found or not of for of, found in zip(given, held, strict=True))
            )
            and self.folds(node, op, op_name, attributes, dtype)
        ):
            return
        names = operand_names(op_name, op.operands if op else (), opset)
        operands = sort_operands(op, op_name, given, held, names, foldable, attributes)
        if "broadcast" in attributes and op_name in _BROADCAST_BY_AXIS:
            self.align(operands, given, attributes)
        if op_name == "GroupNormalization" and opset < 21:
            _per_group(operands, attributes)
        for constant_name in operands.stays:
            self.write_constant(constant_name)
        if operands.settings:
            attributes.update(operands.settings)
        if op_name in MASKING and any(held):
            attributes.update(mask_attributes(op_name, held, self.model.effort))
        if (
            op is not None
            and op.value is not None
            and not operands.parameters
            and (op.of_shapes or operands.inputs)
            and (op.of_shapes or self.follow_from_shapes(operands.inputs))
        ):
            foldable.update(filter(None, written))
        while written and not written[-1]:
            written.pop()
        self.tensors.update(written)
        if self.depends_on_data(op, operands):
            outputs = tuple(self.declared_output(output, dtype) for output in written)
        else:
            stated = dtype or operands.dtype
            outputs = tuple([made(Output, (output, None, stated)) for output in written])
        parameters = tuple(operands.parameters)
        parts = (
            self.unique(name, op_name, written),
            operands.op,
            tuple(operands.inputs),
            outputs,
            attributes,
            parameters if parameters or (op is not None and op.implied is not None) else None,
        )
        self.layers.append(made(Layer, parts))

    def follow_from_shapes(self, inputs: list[str]) -> bool:
        """Whether all inputs are known once the shapes are."""
        known = self.foldable
        return all(name in known or name in self.constants or not name for name in inputs)

    # --- constants -----------------------------------------------------------------------------

    def folds(
        self, node: Wired, op: Op, op_name: str, attributes: dict[str, object], dtype: str | None
    ) -> bool:
        """Note the outputs of a node that reads constants only."""
        given, written = node.reads.copy(), node.writes
        while given and not given[-1]:
            given.pop()
        if not given or op_name in HOLDS_GRAPHS or op_name.startswith("Random"):
            return False
        if op_name == "Resize" and self.model.opset < 11:
            given.insert(1, "")
        operands = [self.constants[name] if name else None for name in given]
        outputs = tuple(Output(name, None, dtype) for name in written)
        layer = Layer(written[0], op_name, tuple(given), outputs, attributes, ())
        found = fold(op, layer, operands, dtype)
        if found is None or len(found) < len([name for name in written if name]):
            return False
        self.constants.update(zip(written, found, strict=False))
        self.constants.pop("", None)
        return True

    def write_constant(self, name: str) -> None:
        """Write the layer that holds a constant, once."""
        if name in self.written_constants:
            return
        self.written_constants.add(name)
        constant = self.constants[name]
        value = constant.value if constant.is_setting else None
        setting = None if value is None else as_setting(value)
        held = () if setting is not None else (_held(constant),)
        self.layers.append(
            Layer(
                self.unique(name, "Constant", [name]),
                "Constant",
                (),
                (Output(name, None if setting is not None else constant.shape, constant.dtype),),
                {} if setting is None else {"value": setting},
                held or None,
            )
        )
        self.tensors.add(name)

    # --- what the file says about shapes ---------------------------------------------------------

    def depends_on_data(self, op: Op | None, operands: Operands) -> bool:
        """Whether the core will need the output's shape to be stated."""
        if op is None or op.name in _DATA_DECIDES:
            return True
        if not op.constants:
            return False
        names = op.operands
        return any(
            name and names[min(i, len(names) - 1)] in op.constants
            for i, name in enumerate(operands.inputs)
            if names and name not in self.foldable and name not in self.constants and i
        )

    def tensor_type(self, name: str) -> TensorType | None:
        """Shape and dtype of a tensor as the file states them."""
        if self.declared is None:
            infos = (*self.proto.value_info, *self.proto.output, *self.proto.input)
            self.declared = {info.name: self.model.tensor_type(info) for info in infos}
        return self.declared.get(name)

    def declared_output(self, name: str, dtype: str | None) -> Output:
        """An output with its shape, where the file states it."""
        found = self.tensor_type(name) if name else None
        return Output(name, found[0], found[1]) if found else Output(name, None, dtype)

    def align(self, operands: Operands, given: list[str], attributes: dict[str, object]) -> None:
        """Old elementwise operators say at which axis a smaller operand starts."""
        axis = attributes.pop("axis", None)
        attributes.pop("broadcast")
        data = self.tensor_type(given[0])
        if not isinstance(axis, int) or data is None or len(operands.parameters) != 1:
            return
        (smaller,) = operands.parameters
        missing = len(data[0]) - axis % len(data[0]) - len(smaller.shape)
        aligned = (*smaller.shape, *(1 for _ in range(missing)))
        operands.parameters[0] = Parameter(smaller.role, aligned, smaller.dtype, smaller.id)

    # --- inner graphs and names ------------------------------------------------------------------

    def read_inner(self, graph: onnx.GraphProto, attribute: str) -> LayerGraph:
        """A graph inside a node; it may read what stands around it."""
        reader = GraphReader(
            self.model, graph, dict(self.constants), set(self.foldable), set(self.tensors)
        )
        reader.inner = True
        inputs = tuple(GraphInput(info.name, (), _element_type(info), None) for info in graph.input)
        return reader.read(inputs)

    def unique(self, wanted: str, op: str, written: list[str]) -> str:
        """A layer name that is not taken yet."""
        if wanted and wanted not in self.used_names:
            self.used_names.add(wanted)
            return wanted
        candidate = name = f"{op}_{written[0]}" if written else op
        number = 1
        while candidate in self.used_names:
            number += 1
            candidate = f"{name}_{number}"
        self.used_names.add(candidate)
        return candidate


def _held(constant: Constant) -> Parameter:
    return parameter("state" if constant.is_setting else "weight", constant)


def _element_type(info: onnx.ValueInfoProto) -> str | None:
    code = info.type.tensor_type.elem_type
    return dtype_name(code, f"tensor {info.name!r}") if code else None


def _operator(name: str, domain: str) -> tuple[str, Op | None]:
    """Name and row of a node's operator; operators of other domains carry the domain's name."""
    if domain in _STANDARD:
        return name, OPS.get(name)
    if domain == "com.microsoft" and name in OPS and name not in _OTHER_IN_MICROSOFT:
        return name, OPS[name]
    name = f"{domain}.{name}"
    return name, OPS.get(name)


def _stated_dtype(node: onnx.NodeProto, op_name: str, attributes: dict[str, object]) -> str | None:
    """The dtype of the output where an attribute says it."""
    if op_name == "ConstantOfShape":
        for attribute in node.attribute:
            if attribute.name == "value":
                return dtype_name(attribute.t.data_type, f"value of node {node.name!r}")
        return "float32"
    if not attributes or op_name not in CODED_DTYPES:
        return None
    stated = attributes.get("output_dtype" if op_name == "QuantizeLinear" else "dtype")
    return stated if isinstance(stated, str) else None


def _per_group(operands: Operands, attributes: dict[str, object]) -> None:
    """Until opset 20 a GroupNormalization had one scale a group, so they follow no channel."""
    for place, p in enumerate(operands.parameters):
        if p.shape == (attributes.get("num_groups"),):
            operands.parameters[place] = Parameter("weight", p.shape, p.dtype, p.id)
