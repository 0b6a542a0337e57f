"""The same elements under other axes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from latency_client.torch.trace import Call, Translation
from latency_client.torch.values import Activation, Piece, Value


def rows() -> Iterator[tuple[str, Translation]]:
    """The rows of this family."""
    for name in ("view", "reshape", "_unsafe_view", "flatten", "unflatten", "view_as",
                 "_reshape_alias", "ravel"):  # fmt: skip
        yield f"aten::{name}", reshape
    for name in ("permute", "transpose", "t", "numpy_T", "movedim", "swapaxes", "swapdims",
                 "matrix_H", "mT", "adjoint"):  # fmt: skip
        yield f"aten::{name}", permute
    yield "aten::squeeze", squeeze
    yield "aten::unsqueeze", unsqueeze
    yield "aten::expand", expand
    yield "aten::expand_as", expand
    yield "aten::broadcast_to", expand
    yield "aten::repeat", tile
    yield "aten::tile", tile
    yield "aten::repeat_interleave", repeat_interleave
    yield "aten::pixel_shuffle", pixel_shuffle
    yield "aten::pixel_unshuffle", pixel_unshuffle
    yield "aten::channel_shuffle", channel_shuffle


def _input(call: Call) -> str:
    return "self" if "self" in call.arguments else "input"


def _reshape(call: Call, x: str, source: Sequence[int], target: Sequence[int], name: str | None,
             ) -> Activation:  # fmt: skip
    # 0 copies: a leading axis that stays, the batch say, follows its input
    shape = list(target)
    if source and target and source[0] == target[0]:
        shape[0] = 0
    (made,) = call.layer("Reshape", [x], {"shape": shape}, shapes=[target], name=name)
    return made


def _transpose(call: Call, x: str, source: Sequence[int], perm: Sequence[int], name: str | None,
               ) -> Activation:  # fmt: skip
    shape = [source[axis] for axis in perm]
    (made,) = call.layer("Transpose", [x], {"perm": list(perm)}, shapes=[shape], name=name)
    return made


def reshape(call: Call) -> Sequence[Value]:
    """Every operation that only changes the shape."""
    source, target = call.shape(_input(call)), call.out_shape
    if source == target or not target or not source:
        return [call.value(_input(call))] if source == target else _scalar(call)
    return [_reshape(call, call.tensor(_input(call)), source, target, None)]


def _scalar(call: Call) -> Sequence[Value]:
    op = "Squeeze" if call.shape(_input(call)) else "Unsqueeze"
    rank = max(len(call.shape(_input(call))), len(call.out_shape))
    return call.layer(op, [call.tensor(_input(call))], {"axes": list(range(rank))})


def permutation(call: Call) -> list[int]:
    """Which axis of the input each axis of the result is."""
    rank = len(call.shape(_input(call)))
    order = list(range(rank))
    operation = call.key.removeprefix("aten::")
    if operation == "permute":
        return [axis % rank for axis in call["dims"]]
    if operation == "movedim":
        given = call["source"], call["destination"]
        sources, targets = ([v] if isinstance(v, int) else list(v) for v in given)
        moved = {t % rank: s % rank for s, t in zip(sources, targets, strict=True)}
        rest = iter(axis for axis in order if axis not in moved.values())
        return [moved[axis] if axis in moved else next(rest) for axis in order]
    if operation == "numpy_T":
        return order[::-1]
    if rank < 2:
        return order
    names = [("dim0", "dim1"), ("axis0", "axis1")]
    pair = next(((call[a] % rank, call[b] % rank) for a, b in names if a in call.arguments),
                (rank - 2, rank - 1))  # fmt: skip
    order[pair[0]], order[pair[1]] = pair[1], pair[0]
    return order


def permute(call: Call) -> Sequence[Value]:
    """Every operation that only changes the order of axes."""
    order, source = permutation(call), call.shape(_input(call))
    if order == sorted(order):
        return [call.value(_input(call))]
    return [_transpose(call, call.tensor(_input(call)), source, order, None)]


def squeeze(call: Call) -> Sequence[Value]:
    """Squeeze: axes that are not of size 1 stay."""
    shape = call.shape("self")
    axes = call.get("dim")
    axes = list(range(len(shape))) if axes is None else [axes] if isinstance(axes, int) else axes
    gone = sorted({axis % max(1, len(shape)) for axis in axes if shape and shape[axis] == 1})
    if not gone:
        return [call.value("self")]
    return call.layer("Squeeze", [call.tensor("self")], {"axes": gone})


def unsqueeze(call: Call) -> Sequence[Value]:
    """Unsqueeze."""
    axis = call["dim"] % len(call.out_shape)
    return call.layer("Unsqueeze", [call.tensor("self")], {"axes": [axis]})


def expand(call: Call) -> Sequence[Value]:
    """Expand, where it changes anything; leading axes that stay follow their input."""
    source, target = call.shape("self"), call.out_shape
    if source == target:
        return [call.value("self")]
    lead = len(target) - len(source)
    shape = [1 if axis >= lead and source[axis - lead] == extent else extent
             for axis, extent in enumerate(target)]  # fmt: skip
    return call.layer("Expand", [call.tensor("self")], {"shape": shape})


def tile(call: Call) -> Sequence[Value]:
    """Repeat and tile."""
    repeats = list(call.get("repeats") or call.get("dims"))
    x, source = call.tensor("self"), call.shape("self")
    if len(repeats) > len(source):
        axes = list(range(len(repeats) - len(source)))
        shape = (*(1 for _ in axes), *source)
        (wide,) = call.layer("Unsqueeze", [x], {"axes": axes}, shapes=[shape], name="unsqueeze")
        x, source = wide.name, shape
    repeats = [1] * (len(source) - len(repeats)) + repeats
    if set(repeats) == {1}:
        return [Activation(x)]
    return call.layer("Tile", [x], {"repeats": repeats})


def repeat_interleave(call: Call) -> Sequence[Value]:
    """Every element along an axis several times in a row, as Expand between two reshapes."""
    x, shape = call.tensor("self"), call.shape("self")
    axis = call["dim"]
    if axis is None:
        count = call["self"].numel()
        x, shape, axis = _reshape(call, x, shape, (count,), "flatten").name, (count,), 0
    axis %= len(shape)
    times = call.out_shape[axis] // shape[axis]
    single = (*shape[: axis + 1], 1, *shape[axis + 1 :])
    many = (*shape[: axis + 1], times, *shape[axis + 1 :])
    (wide,) = call.layer("Unsqueeze", [x], {"axes": [axis + 1]}, shapes=[single],
                         name="unsqueeze")  # fmt: skip
    target = [extent if place == axis + 1 else 1 for place, extent in enumerate(many)]
    (spread,) = call.layer("Expand", [wide.name], {"shape": target}, shapes=[many], name="expand")
    return [_reshape(call, spread.name, many, call.out_shape, None)]


def pixel_shuffle(call: Call) -> Sequence[Value]:
    """Channels become positions."""
    attributes = {"blocksize": call["upscale_factor"], "mode": "CRD"}
    return call.layer("DepthToSpace", [call.tensor("self")], attributes)


def pixel_unshuffle(call: Call) -> Sequence[Value]:
    """Positions become channels, those of one channel side by side: as two reshapes say it."""
    n, c, h, w = call.shape("self")
    r = call["downscale_factor"]
    cut = (n, c, h // r, r, w // r, r)
    one = _reshape(call, call.tensor("self"), (n, c, h, w), cut, "cut")
    order = (0, 1, 3, 5, 2, 4)
    two = _transpose(call, one.name, cut, order, "transpose")
    turned = tuple(cut[axis] for axis in order)
    return [_reshape(call, two.name, turned, call.out_shape, None)]


def channel_shuffle(call: Call) -> Sequence[Value]:
    """Channels seen as rows and columns, turned round."""
    shape, groups = call.shape("self"), call["groups"]
    cut = (shape[0], groups, shape[1] // groups, *shape[2:])
    one = _reshape(call, call.tensor("self"), shape, cut, "cut")
    order = (0, 2, 1, *range(3, len(cut)))
    two = _transpose(call, one.name, cut, order, "transpose")
    turned = tuple(cut[axis] for axis in order)
    return [_reshape(call, two.name, turned, shape, None)]


# --- the same of what is learned ------------------------------------------------------------------


def learned_rows() -> Mapping[str, Callable[[Call, Piece], list[Value] | None]]:
    """Views of a parameter that stay views of it."""
    found: dict[str, Callable[[Call, Piece], list[Value] | None]] = {}
    for name in ("view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze",
                 "expand", "view_as", "_reshape_alias"):  # fmt: skip
        found[f"aten::{name}"] = lambda call, piece: [piece.reshaped(call.out_shape)]
    for name in ("permute", "transpose", "t", "numpy_T", "movedim", "swapaxes", "mT"):
        found[f"aten::{name}"] = lambda call, piece: [piece.permuted(tuple(permutation(call)))]
    for name in ("contiguous", "clone", "detach", "alias", "to", "_to_copy", "dropout",
                 "lift_fresh"):  # fmt: skip
        found[f"aten::{name}"] = lambda call, piece: [piece]
    found["aten::slice"] = _sliced
    found["aten::narrow"] = _narrowed
    found["aten::select"] = _selected
    for name in ("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_split"):
        found[f"aten::{name}"] = _cut
    return found


def _sliced(call: Call, piece: Piece) -> list[Value] | None:
    if call["step"] != 1:
        return None
    axis = call["dim"] % len(piece.shape)
    start = call["start"] or 0
    start = max(0, start + piece.shape[axis] if start < 0 else start)
    return [piece.sliced(axis, start, call.out_shape[axis])]


def _narrowed(call: Call, piece: Piece) -> list[Value] | None:
    axis = call["dim"] % len(piece.shape)
    if not isinstance(call["start"], int):
        return None
    return [piece.sliced(axis, call["start"] % piece.shape[axis], call["length"])]


def _selected(call: Call, piece: Piece) -> list[Value] | None:
    axis = call["dim"] % len(piece.shape)
    one = piece.sliced(axis, call["index"] % piece.shape[axis], 1)
    return [one.reshaped(call.out_shape)] if piece.shape[axis] == 1 else None


def _cut(call: Call, piece: Piece) -> list[Value] | None:
    axis = call.get("dim", 0) % len(piece.shape)
    start, found = 0, []
    for tensor in call.outputs:
        found.append(piece.sliced(axis, start, tensor.shape[axis]))
        start += tensor.shape[axis]
    return list(found)
