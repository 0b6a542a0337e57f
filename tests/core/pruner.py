"""Prunes a layer graph by what an answer of the API says, knowing nothing of how groups are found.

Weights are cut where the groups' members say. What is left of every tensor then follows forward
through the operators as plain boolean vectors, one an axis, and is held against the members again:
operands must agree, a kernel must read exactly what its input still has, and where an operator's
settings name channels (Reshape, Split, Slice, ...) a member must have said so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt

Json = dict[str, Any]
Mask = npt.NDArray[np.bool_]
Masks = list[Mask]  # per axis of a tensor, which positions are left


class PruningError(AssertionError):
    """The members do not describe a network that can be built."""


def demand(holds: bool | np.bool_, layer: Json, what: str) -> None:
    if not holds:
        raise PruningError(f"layer {layer['name']!r}: {what}")


def positions(member: Mapping[str, Any], channel: int) -> Iterable[int]:
    """Where a channel of a group sits on the member's axis."""
    if "index" in member:
        return member["index"][channel]  # type: ignore[no-any-return]
    start = member["start"] + channel * member["stride"]
    return range(start, start + member["block"])


def cuts_of(
    groups: Sequence[Mapping[str, Any]], dead: Mapping[str, Iterable[int]]
) -> dict[tuple[str, str, int], set[int]]:
    """What to remove: per layer, role and axis.

    Raises:
        PruningError: if two channels claim the same position of the same thing.
    """
    cuts: dict[tuple[str, str, int], set[int]] = defaultdict(set)
    for group in groups:
        gone = set(dead.get(group["id"], ()))
        for member in group["members"]:
            key = (member["layer"], member["role"], member["axis"])
            for channel in gone:
                cuts[key].update(positions(member, channel))
    claimed: dict[tuple[str, str, int], dict[int, tuple[str, int]]] = defaultdict(dict)
    for group in groups:
        for member in group["members"]:
            key = (member["layer"], member["role"], member["axis"])
            for channel in range(group["size"]):
                for position in positions(member, channel):
                    owner = claimed[key].setdefault(position, (group["id"], channel))
                    if owner != (group["id"], channel):
                        raise PruningError(f"{key} position {position}: two channels claim it")
    return dict(cuts)


class Pruner:
    """One pruning of one graph; `masks` tells afterwards what is left of every tensor."""

    def __init__(
        self,
        document: Json,
        groups: Sequence[Mapping[str, Any]],
        dead: Mapping[str, Iterable[int]],
    ) -> None:
        self.document = document
        self.cuts: dict[str, dict[tuple[str, int], set[int]]] = defaultdict(dict)
        for (layer, role, axis), gone in cuts_of(groups, dead).items():
            self.cuts[layer][role, axis] = gone
        self.masks: dict[str, Masks] = {}
        self.parameters: dict[tuple[str, int], Masks] = {}

    def prune(self) -> Json:
        for row in self.document["inputs"]:
            self.masks[row["name"]] = [full(extent) for extent in row["shape"]]
        layers = [self._layer(layer) for layer in self.document["layers"]]
        return self.document | {"layers": layers}

    # --- one layer -----------------------------------------------------------------------------

    def _layer(self, layer: Json) -> Json:
        rule = RULES.get(layer["op"], elementwise)
        inputs = [self.masks[name] for name in layer["inputs"]]
        view = View(self, layer, inputs)
        outputs = rule(view)
        for (role, axis), mask in view.members("input", "output"):
            side = inputs[0] if role == "input" else outputs[0]
            same = mask.size == side[axis].size and (mask == side[axis]).all()
            demand(same, layer, f"{role} member on axis {axis} says otherwise than its tensors")
        rows = []
        for row, masks in zip(layer["outputs"], outputs, strict=True):
            stated = [mask.size for mask in masks]
            demand(row["shape"] == stated, layer, f"the pruner takes {stated} for {row['shape']}")
            self.masks[row["name"]] = masks
            rows.append(row | {"shape": live(masks)})
        pruned = layer | {"op": view.op, "outputs": rows}
        if view.attributes != layer.get("attributes", {}):
            pruned["attributes"] = view.attributes
        if layer.get("parameters") is not None:
            pruned["parameters"] = [
                parameter | {"shape": live(view.parameters[i])}
                for i, parameter in enumerate(layer["parameters"])
            ]
            for i, masks in view.parameters.items():
                self.parameters[layer["name"], i] = masks
        return pruned


class View:
    """What a rule sees of a layer, and where it leaves new attributes and cut parameters."""

    def __init__(self, pruner: Pruner, layer: Json, inputs: list[Masks]) -> None:
        self.layer = layer
        self.op: str = layer["op"]
        self.inputs = inputs
        self.attributes: Json = dict(layer.get("attributes", {}))
        self.out = [tuple(row["shape"]) for row in layer["outputs"]]
        self._cuts = pruner.cuts[layer["name"]]
        self.parameters: dict[int, Masks] = {
            i: [full(extent) for extent in parameter["shape"]]
            for i, parameter in enumerate(layer.get("parameters") or ())
        }

    def demand(self, holds: bool | np.bool_, what: str) -> None:
        demand(holds, self.layer, what)

    def cut(self, role: str, axis: int, extent: int) -> Mask:
        """What the members leave of an axis."""
        mask = full(extent)
        gone = self._cuts.get((role, axis), set())
        self.demand(all(0 <= p < extent for p in gone), f"{role} axis {axis} ends at {extent}")
        mask[list(gone)] = False
        return mask

    def members(self, *roles: str) -> list[tuple[tuple[str, int], Mask]]:
        """What the members say about its tensors."""
        found = []
        for role, axis in self._cuts:
            if role in roles:
                shape = [mask.size for mask in self.inputs[0]] if role == "input" else self.out[0]
                found.append(((role, axis), self.cut(role, axis, shape[axis])))
        return found

    def told(self, *masks: Mask) -> None:
        """Settings name positions on these axes: where some go, a member must have said so."""
        if not all(mask.all() for mask in masks):
            self.demand(bool(self.members("input", "output")), "no member says what is cut")

    def weight(self, *implied: int) -> Masks:
        """What the members leave of the kernel, per axis.

        Args:
            implied: its shape, where the graph leaves it out.
        """
        stated = self.role("weight")
        shape = implied if stated is None else self.layer["parameters"][stated]["shape"]
        masks = [self.cut("weight", axis, extent) for axis, extent in enumerate(shape)]
        if stated is not None:
            self.parameters[stated] = masks
        return masks

    def role(self, role: str) -> int | None:
        for i, parameter in enumerate(self.layer.get("parameters") or ()):
            if parameter["role"] == role:
                return i
        return None

    def vectors(self, mask: Mask, *roles: str) -> None:
        """Cut what has one entry a channel."""
        for role in roles:
            i = self.role(role)
            if i is not None:
                self.parameters[i] = [mask]


Rule = Callable[[View], list[Masks]]


def full(extent: int) -> Mask:
    return np.ones(extent, dtype=bool)


def live(masks: Masks) -> list[int]:
    return [int(mask.sum()) for mask in masks]


def spread(view: View, operands: Sequence[Masks]) -> Masks:
    """Operands combined position by position, with NumPy's broadcasting: what is left agrees."""
    rank = max(len(masks) for masks in operands)
    out = []
    for axis in range(rank):
        lines = [m[axis - rank] for m in operands if axis - rank >= -len(m)]
        wide = [line for line in lines if line.size > 1]
        for line in lines:
            alone = line.size == 1 and bool(line.all())
            same = bool(wide) and line.size == wide[0].size and bool((line == wide[0]).all())
            view.demand(alone or same or not wide, f"operands disagree on axis {axis}")
        out.append(wide[0] if wide else lines[0])
        view.demand(all((line == out[-1]).all() for line in lines if not wide), "operands disagree")
    return out


# --- operators that multiply ----------------------------------------------------------------------


def conv(view: View) -> list[Masks]:
    x, group = view.inputs[0], view.attributes.get("group", 1)
    channels, taps = view.out[0][1], view.attributes["kernel_shape"]
    if view.op == "Conv":
        written, read = view.weight(channels, x[1].size // group, *taps)[:2]
    else:
        read, written = view.weight(x[1].size, channels // group, *taps)[:2]
    if group > 1:
        expected = through(view, x[1], group, channels)
        own, kernel = (expected, written) if view.op == "Conv" else (x[1], read)
        view.demand(bool((own == kernel).all()), "conv-groups are torn apart")
        view.attributes["group"] = int(x[1].reshape(group, -1)[:, 0].sum())
        written = expected
    else:
        view.demand(bool((read == x[1]).all()), "the kernel does not read what its input has")
    view.vectors(written, "bias")
    return [[x[0], written, *map(full, view.out[0][2:])]]


def through(view: View, read: Mask, group: int, channels: int) -> Mask:
    """The output channels of the conv-groups that are left."""
    table = read.reshape(group, -1)
    view.demand(bool((table == table[:, :1]).all()), "conv-groups are torn apart")
    return np.repeat(table[:, 0], channels // group)


def gemm(view: View) -> list[Masks]:
    return dense(view, 1, 0)


def dense(view: View, in_axis: int, out_axis: int) -> list[Masks]:
    x = view.inputs[0]
    weight = view.weight()
    same = bool((weight[in_axis] == x[-1]).all())
    view.demand(same, "the matrix does not read what its input has")
    view.vectors(weight[out_axis], "bias")
    return [[*x[:-1], weight[out_axis]]]


def matmul(view: View) -> list[Masks]:
    if len(view.inputs) == 1:
        return dense(view, 0, 1)
    left, right = view.inputs
    view.demand(bool((left[-1] == right[-2]).all()), "factors sum over different channels")
    return [[*spread(view, [left[:-2], right[:-2]]), left[-2], right[-1]]]


def lstm(view: View) -> list[Masks]:
    x = view.inputs[0]
    directions, _, hidden = view.out[1]
    read = view.weight(directions, 4 * hidden, x[2].size)[2]
    view.demand(bool((read == x[2]).all()), "the matrix does not read what its input has")
    return [[full(extent) for extent in shape] for shape in view.out]


# --- elementwise and normalisation ----------------------------------------------------------------


def elementwise(view: View) -> list[Masks]:
    operands = list(view.inputs)
    for i, parameter in enumerate(view.layer.get("parameters") or ()):
        masks = [view.cut(parameter["role"], a, n) for a, n in enumerate(parameter["shape"])]
        view.parameters[i] = masks
        operands.append(masks)
    return [spread(view, operands)] * len(view.out)


def channel_norm(view: View) -> list[Masks]:
    x = view.inputs[0]
    gamma = view.cut("gamma", 0, x[1].size)
    view.demand(bool((gamma == x[1]).all()), "gamma is not cut as its input is")
    view.vectors(x[1], "gamma", "beta", "mean", "variance")
    if "num_groups" in view.attributes:
        table = x[1].reshape(view.attributes["num_groups"], -1)
        view.demand(bool((table == table[:, :1]).all()), "a group of the norm is torn apart")
        view.attributes["num_groups"] = int(table[:, 0].sum())
    return [x]


def over_axis(view: View) -> list[Masks]:
    x = view.inputs[0]
    view.demand(bool(x[view.attributes.get("axis", -1)].all()), "its statistics see the cut")
    return [x]


def pool(view: View) -> list[Masks]:
    x = view.inputs[0]
    return [[*x[:2], *map(full, view.out[0][2:])]]


def reduce_mean(view: View) -> list[Masks]:
    x = view.inputs[0]
    gone = {axis % len(x) for axis in view.attributes["axes"]}
    view.demand(all(bool(x[axis].all()) for axis in gone), "the mean sees the cut")
    if view.attributes["keepdims"]:
        return [[full(1) if axis in gone else mask for axis, mask in enumerate(x)]]
    return [[mask for axis, mask in enumerate(x) if axis not in gone]]


# --- moving data ----------------------------------------------------------------------------------


def reshape(view: View) -> list[Masks]:
    x = view.inputs[0]
    table = reduce(np.multiply.outer, x).reshape(view.out[0])
    out: Masks = [
        np.asarray(table.any(axis=tuple(a for a in range(table.ndim) if a != axis)))
        for axis in range(table.ndim)
    ]
    whole = bool((reduce(np.multiply.outer, out) == table).all())
    view.demand(whole, "what is left is no box in the new shape")
    if "shape" in view.attributes:
        view.attributes["shape"] = live(out)
    view.told(*x)
    return [out]


def transpose(view: View) -> list[Masks]:
    return [[view.inputs[0][axis] for axis in view.attributes["perm"]]]


def unsqueeze(view: View) -> list[Masks]:
    out = list(view.inputs[0])
    for axis in sorted(view.attributes["axes"]):
        out.insert(axis, full(1))
    return [out]


def concat(view: View) -> list[Masks]:
    axis, rank = view.attributes["axis"], len(view.out[0])
    out: Masks = []
    for a in range(rank):
        lines = [masks[a] for masks in view.inputs]
        if a == axis % rank:
            out.append(np.concatenate(lines))
        else:
            view.demand(all((line == lines[0]).all() for line in lines), f"pieces differ on {a}")
            out.append(lines[0])
    return [out]


def split(view: View) -> list[Masks]:
    x, axis = view.inputs[0], view.attributes["axis"]
    view.told(x[axis])
    bounds = np.cumsum([shape[axis] for shape in view.out])[:-1].tolist()
    pieces = np.split(x[axis], bounds)
    if not x[axis].all():
        view.attributes.pop("num_outputs", None)
        view.attributes["split"] = [int(piece.sum()) for piece in pieces]
    return [[*x[:axis], piece, *x[axis + 1 :]] for piece in pieces]


def slice_(view: View) -> list[Masks]:
    """A slice of what is left; where that is no longer regular, a Gather of the same positions."""
    x = view.inputs[0]
    (axis,), (start,), (end,), (step,) = (
        view.attributes[key] for key in ("axes", "starts", "ends", "steps")
    )
    taken = range(x[axis].size)[start:end:step]
    if not x[axis].all():
        view.told(x[axis])
        indices = renumbered(x[axis], taken)
        if indices == list(range(indices[0], indices[-1] + 1)):
            view.attributes |= {"starts": indices[:1], "ends": [indices[-1] + 1], "steps": [1]}
        else:
            view.op, view.attributes = "Gather", {"indices": indices, "axis": axis}
    return [[*x[:axis], x[axis][list(taken)], *x[axis + 1 :]]]


def renumbered(left: Mask, taken: Iterable[int]) -> list[int]:
    """Positions among those that are left."""
    place = np.cumsum(left) - 1
    return [int(place[p]) for p in taken if left[p]]


def gather(view: View) -> list[Masks]:
    x, axis = view.inputs[0], view.attributes["axis"]
    if view.layer.get("parameters"):
        table = view.weight()
        view.demand(bool(table[0].all()), "words are cut")
        return [[*x, table[1]]]
    indices = view.attributes["indices"]
    if isinstance(indices, int):
        view.demand(bool(x[axis].all()), "a gathered position is cut")
        return [[*x[:axis], *x[axis + 1 :]]]
    taken = [index % x[axis].size for index in indices]
    if not x[axis].all():
        view.told(x[axis])
        view.attributes["indices"] = renumbered(x[axis], taken)
    return [[*x[:axis], x[axis][taken], *x[axis + 1 :]]]


def pad(view: View) -> list[Masks]:
    x, amounts = view.inputs[0], view.attributes["pads"]
    rank = len(x)
    return [
        [
            np.concatenate([full(amounts[a]), mask, full(amounts[rank + a])])
            for a, mask in enumerate(x)
        ]
    ]


def resize(view: View) -> list[Masks]:
    x = view.inputs[0]
    out = [
        mask if mask.size == extent else full(extent)
        for mask, extent in zip(x, view.out[0], strict=True)
    ]
    if len(view.attributes.get("sizes", ())) == len(x):
        view.attributes["sizes"] = live(out)
    return [out]


def expand(view: View) -> list[Masks]:
    x = view.inputs[0]
    out = [
        mask if mask.size == extent else full(extent)
        for mask, extent in zip(x, view.out[0], strict=True)
    ]
    view.attributes["shape"] = live(out)
    return [out]


def tile(view: View) -> list[Masks]:
    repeats = view.attributes["repeats"]
    return [[np.tile(m, r) for m, r in zip(view.inputs[0], repeats, strict=True)]]


def depth_to_space(view: View) -> list[Masks]:
    x, square = view.inputs[0], view.attributes["blocksize"] ** 2
    table = (
        x[1].reshape(square, -1) if view.attributes["mode"] == "DCR" else x[1].reshape(-1, square).T
    )
    view.demand(bool((table == table[0]).all()), "a pixel is torn apart")
    return [[x[0], table[0], *map(full, view.out[0][2:])]]


def space_to_depth(view: View) -> list[Masks]:
    x, square = view.inputs[0], view.attributes["blocksize"] ** 2
    return [[x[0], np.tile(x[1], square), *map(full, view.out[0][2:])]]


RULES: dict[str, Rule] = {
    "Conv": conv,
    "ConvTranspose": conv,
    "Gemm": gemm,
    "MatMul": matmul,
    "LSTM": lstm,
    "BatchNormalization": channel_norm,
    "InstanceNormalization": channel_norm,
    "GroupNormalization": channel_norm,
    "LayerNormalization": over_axis,
    "Softmax": over_axis,
    "MaxPool": pool,
    "AveragePool": pool,
    "GlobalAveragePool": pool,
    "ReduceMean": reduce_mean,
    "Reshape": reshape,
    "Flatten": reshape,
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
    "Concat": concat,
    "Split": split,
    "Slice": slice_,
    "Gather": gather,
    "Pad": pad,
    "Resize": resize,
    "Expand": expand,
    "Tile": tile,
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
}


def prune(
    document: Json, groups: Sequence[Mapping[str, Any]], dead: Mapping[str, Iterable[int]]
) -> Json:
    """The pruned network.

    Args:
        groups: as in the answer: id, size, members.
        dead: per group the channels that go.

    Raises:
        PruningError: where the members do not fit together.
    """
    return Pruner(document, groups, dead).prune()
