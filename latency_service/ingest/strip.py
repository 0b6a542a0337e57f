"""An ONNX file without its weights, found by walking the file's own bytes.

The structure of ResNet-50 is 60 KB, its weights are 102 MB. Parsing all of it takes 30 ms and as
much memory again, parsing the structure 1 ms; so the payloads are cut out before protobuf sees the
file. A protobuf message is a row of fields `key length payload`: the walk jumps from field to
field, goes into those messages that are large enough to hold a weight, and leaves the payload out.
What remains is the same ModelProto, byte for byte, except that large tensors hold no elements; but
for masks of attention, whose elements matter (latency_service/core/masks.py).

Field numbers: onnx/onnx.proto. Wire format: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from typing import NoReturn

from latency_service.core.costing import TakesLong
from latency_service.core.errors import ModelFileError
from latency_service.core.masks import LEAST_NORMAL

# A tensor is kept whole up to this size: 4096 elements of 8 bytes.
PAYLOAD_LIMIT_BYTES = 32 * 1024

# protobuf's own limit
_DEPTH_LIMIT = 100
# Fields looked at; a tenth of this is a very large network.
_FIELD_LIMIT = 1_000_000
# Some two milliseconds' worth; MobileNetV2 has 700.
_FEW_FIELDS = 5_000

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# message -> field number -> (field name, message in it): the ways that lead to a tensor
_WAYS: dict[str, dict[int, tuple[str, str]]] = {
    "ModelProto": {
        7: ("graph", "GraphProto"),
        20: ("training_info", "TrainingInfoProto"),
        25: ("functions", "FunctionProto"),
    },
    "TrainingInfoProto": {1: ("initialization", "GraphProto"), 2: ("algorithm", "GraphProto")},
    "GraphProto": {
        1: ("node", "NodeProto"),
        5: ("initializer", "TensorProto"),
        15: ("sparse_initializer", "SparseTensorProto"),
    },
    "FunctionProto": {7: ("node", "NodeProto"), 11: ("attribute_proto", "AttributeProto")},
    "NodeProto": {5: ("attribute", "AttributeProto")},
    "AttributeProto": {
        5: ("t", "TensorProto"),
        6: ("g", "GraphProto"),
        10: ("tensors", "TensorProto"),
        11: ("graphs", "GraphProto"),
        22: ("sparse_tensor", "SparseTensorProto"),
        23: ("sparse_tensors", "SparseTensorProto"),
    },
    "SparseTensorProto": {1: ("values", "TensorProto"), 2: ("indices", "TensorProto")},
    "TensorProto": {},
}
# float_data, int32_data, string_data, int64_data, raw_data, double_data, uint64_data
_PAYLOADS = frozenset({4, 5, 6, 7, 9, 10, 11})
# float_data and raw_data hold masks, whose last two `dims` are equal, larger than a window's, and
# whose `data_type` is one of these, up to a size. So many of their numbers are looked at.
_MASK_PAYLOADS, _MASK_LIMIT_BYTES, _SAMPLES = frozenset({4, 9}), 16 << 20, 61
_DIMS, _DATA_TYPE, _WINDOW = 1, 2, b"\x07"
_FLOAT, _BOOL = 1, 9


def strip_weights(
    data: bytes, limit_bytes: int = PAYLOAD_LIMIT_BYTES, briefly: bool = False
) -> bytes:
    """The same model, its tensors of more than `limit_bytes` without their elements.

    Their names, dimensions and dtypes stay. Takes time by the number of nodes, not of weights.

    Args:
        data: an ONNX file.
        limit_bytes: above which a tensor loses its elements.
        briefly: whether to give up on what takes more than some milliseconds.

    Raises:
        TakesLong: only if `briefly`.
        ModelFileError: if the bytes end early or are no protobuf message, saying where.
    """
    return _Walk(data, limit_bytes, briefly).run()


class _Walk:
    def __init__(self, data: bytes, limit_bytes: int, briefly: bool) -> None:
        self.data = data
        self.view = memoryview(data)
        self.limit = limit_bytes
        self.briefly = briefly
        self.most = _FEW_FIELDS if briefly else _FIELD_LIMIT
        self.fields = 0

    def run(self) -> bytes:
        pieces = self.message("ModelProto", 0, len(self.data), ())
        return self.data if pieces is None else b"".join(pieces)

    def message(
        self, kind: str, start: int, end: int, path: tuple[str, ...]
    ) -> list[memoryview | bytes] | None:
        """The pieces that a message is to consist of; None: it stays as it is."""
        if len(path) > _DEPTH_LIMIT:
            raise ModelFileError(f"{_where(path)}: graphs are nested more than 100 deep")
        data, view, limit = self.data, self.view, self.limit
        ways, tensor = _WAYS[kind], kind == "TensorProto"
        element, dims = 0, list[bytes]()
        counts: dict[int, int] = {}
        pieces: list[memoryview | bytes] | None = None
        kept = position = start
        while position < end:
            begin = position
            key = data[position]
            position += 1
            if key > 127:
                key, position = self.varint(begin, end, path)
            number, wire = key >> 3, key & 7
            self.fields += 1
            if self.fields > self.most:
                self.give_up()
            if wire == _BYTES:
                size = data[position] if position < end else 128
                position += 1
                if size > 127:
                    # two bytes are the usual number of them, and calling takes longer than reading
                    second = data[position] if position < end else 128
                    if second < 128:
                        size, position = size & 127 | second << 7, position + 1
                    else:
                        size, position = self.varint(position - 1, end, path)
                body, position = position, position + size
            elif wire == _VARINT:
                body = position
                _, position = self.varint(position, end, path)
            elif wire in (_FIXED32, _FIXED64):
                body, position = position, position + (4 if wire == _FIXED32 else 8)
            else:
                raise _malformed(path, begin, f"no field starts with byte {data[begin]:#04x}")
            if number == 0:
                raise _malformed(path, begin, "a field has number 0")
            if position > end:
                name = ways[number][0] if number in ways else f"field {number}"
                missing = f"{name} ends {position - end} bytes after what holds it"
                raise _malformed(path, begin, missing)
            replacement: list[memoryview | bytes] = []
            if tensor:
                if number not in _PAYLOADS:
                    if number == _DIMS and wire == _VARINT:
                        dims.append(data[body:position])
                    elif number == _DATA_TYPE:
                        element = data[body]
                    continue
                square = len(dims) > 1 and dims[-1] == dims[-2] > _WINDOW
                may_mask = square and number in _MASK_PAYLOADS
                if may_mask and _looks_masking(view[body:position], element):
                    continue
            elif number in ways and wire == _BYTES:
                name, child = ways[number]
                place = counts[number] = counts.get(number, -1) + 1
                if position - body <= limit:
                    continue
                inside = self.message(child, body, position, (*path, f"{name}[{place}]"))
                if inside is None:
                    continue
                replacement = [_key(key), _key(sum(map(len, inside))), *inside]
            else:
                continue
            if pieces is None:
                pieces = []
            if begin > kept:
                pieces.append(view[kept:begin])
            pieces += replacement
            kept = position
        if pieces is not None and end > kept:
            pieces.append(view[kept:end])
        return pieces

    def give_up(self) -> NoReturn:
        """Say that there are too many fields."""
        if self.briefly:
            raise TakesLong
        raise ModelFileError(
            f"the model has more than {_FIELD_LIMIT:,} fields besides its weights; "
            "no network needs that many"
        )

    def varint(self, position: int, end: int, path: tuple[str, ...]) -> tuple[int, int]:
        """A number of seven bits a byte, and the position after it."""
        data = self.data
        start, value, shift = position, 0, 0
        while position < end:
            byte = data[position]
            position += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value, position
            shift += 7
            if shift > 63:
                raise _malformed(path, start, "a number has more than ten bytes")
        raise _malformed(path, start, "it ends within a number")


def _looks_masking(payload: memoryview, element: int) -> bool:
    """Whether a tensor of this element type looks like a mask of attention, or what makes one.

    Logical, or of zeros and ones, or with numbers that hide a score: no weight is as far below 0.
    """
    if element == _BOOL:
        return len(payload) <= _MASK_LIMIT_BYTES
    if element != _FLOAT or len(payload) % 4 or not 0 < len(payload) <= _MASK_LIMIT_BYTES:
        return False
    numbers = payload.cast("f")
    seen = numbers[:: len(numbers) // _SAMPLES + 1].tolist()
    return min(seen) <= LEAST_NORMAL or not set(seen) - {0.0, 1.0}


def _key(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _where(path: tuple[str, ...]) -> str:
    return "the model's " + ".".join(path) if path else "the model"


def _malformed(path: tuple[str, ...], position: int, detail: str) -> ModelFileError:
    return ModelFileError(
        f"the file is truncated or no ONNX model: in {_where(path)}, at byte {position}, {detail}. "
        "Send the whole file that torch.onnx.export, tf2onnx or onnx.save wrote"
    )
