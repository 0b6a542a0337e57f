"""From a structure to a smaller model with the surviving weights.

The smaller model gives the outputs of the masked one, in which every weight that reads a dead
channel is zero. That is checked on the example inputs before it is returned.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from latency_client.errors import PruningError
from latency_client.graph import Layer
from latency_client.structure import BoolArray, Structure, check_structure
from latency_client.torch.attention import PrunedMultiheadAttention, pruned_attention
from latency_client.torch.cuts import Cuts, dead_members, mask_
from latency_client.torch.extract import Extraction, extract, tensors_in, unwrapped, with_rows
from latency_client.torch.gates import fold_gates
from latency_client.torch.reshapes import AdjustedForward, Change
from latency_client.torch.vanished import WINDOWED, Constant, Vanished

Resize = Callable[[nn.Module, Mapping[str, tuple[int, int]]], None]


def prune(
    model: nn.Module,
    structure: Structure,
    example_inputs: Any,
    *,
    resize: Mapping[type[nn.Module] | str, Resize] | None = None,
    tolerance: float = 1e-4,
    batch_axis: int | None = 0,
    unknown_ops: str = "refuse",
) -> nn.Module:
    """A smaller copy of a model; the model itself is left as it is.

    Gates are folded into the scales before them.

    Args:
        resize: for modules of a type, or at a path, whose code counts channels or heads in a way
            that reshapes and splits do not show: gets the module of the copy and, per axis that a
            reshape of it names, (extent before, extent after), and changes the module.
        tolerance: greatest difference between its outputs and those of the masked model, relative
            to their largest value.

    Raises:
        StructureError: if the structure belongs to another model.
        PruningError: if the model cannot be cut, or the copy computes something else.
    """
    model = unwrapped(model)
    try:
        original = copy.deepcopy(model)
    except RuntimeError as error:
        raise PruningError(
            f"{type(model).__name__} cannot be copied: {error}. Weights that the older "
            "nn.utils.weight_norm computes are the usual reason; call "
            "nn.utils.remove_weight_norm first"
        ) from error
    fold_gates(original)
    extraction = extract(
        original, example_inputs, batch_axis=batch_axis, unknown_ops=unknown_ops,
        batch_size=None if batch_axis is None else 1,
    )  # fmt: skip
    check_structure(structure, extraction.graph)
    cuts = Cuts(original, extraction, structure)
    smaller = copy.deepcopy(original)
    _refuse_severed(extraction, cuts)
    known = set(smaller.modules())
    _Surgeon(smaller, extraction, cuts).run()
    replaced = set(smaller.modules()) - known
    _resize(smaller, extraction, structure, resize or {}, replaced)
    mask_(original, extraction, structure)
    _compare(original, smaller, example_inputs, batch_axis, tolerance)
    return smaller


def masked(
    model: nn.Module, structure: Structure, example_inputs: Any, *, batch_axis: int | None = 0
) -> nn.Module:
    """A copy of the full size in which every weight that reads a dead channel is zero."""
    copied = copy.deepcopy(unwrapped(model))
    extraction = extract(
        copied, example_inputs, batch_axis=batch_axis, unknown_ops="freeze",
        batch_size=None if batch_axis is None else 1,
    )  # fmt: skip
    check_structure(structure, extraction.graph)
    mask_(copied, extraction, structure)
    return copied


def rebuild(
    model_fn: Callable[[], nn.Module],
    structure: Structure,
    example_inputs: Any,
    *,
    resize: Mapping[type[nn.Module] | str, Resize] | None = None,
    batch_axis: int | None = 0,
) -> nn.Module:
    """A new model of a structure, to be trained from scratch.

    Args:
        model_fn: makes the model of the full size.

    Modules that have become smaller draw their weights anew, since the spread of a start depends on
    the width. Raises as `prune`.
    """
    full = model_fn()
    smaller = prune(full, structure, example_inputs, resize=resize, batch_axis=batch_axis)
    shapes = {name: tensor.shape for name, tensor in unwrapped(full).named_parameters()}
    for path, module in smaller.named_modules():
        reset = getattr(module, "reset_parameters", None)
        own = dict(module.named_parameters(path, recurse=False))
        if reset is not None and any(
            t.numel() > 0 and shapes.get(n) != t.shape for n, t in own.items()
        ):
            reset()
    return smaller.train()


class _Surgeon:
    """Cuts the tensors of a copy and the numbers that its modules keep beside them."""

    def __init__(self, model: nn.Module, extraction: Extraction, cuts: Cuts) -> None:
        self.model = model
        self.extraction = extraction
        self.cuts = cuts
        self.before = {path: _as_it_is(module) for path, module in model.named_modules()}

    def run(self) -> None:
        replaced: dict[int, Tensor] = {}
        changed: list[tuple[str, nn.Module]] = []
        for path, module in list(self.model.named_modules(remove_duplicate=False)):
            touched = False
            for store, learned in ((module._parameters, True), (module._buffers, False)):
                for name, tensor in list(store.items()):
                    if tensor is None:
                        continue
                    full = f"{path}.{name}" if path else name
                    if id(tensor) not in replaced:
                        replaced[id(tensor)] = self._smaller(full, tensor, learned)
                    store[name] = replaced[id(tensor)]
                    touched |= store[name] is not tensor
            if touched:
                changed.append((path, module))
        for path, module in changed:
            if path in self.before:
                self._renumber(path, module)
        self._remove_vanished()

    def _smaller(self, name: str, tensor: Tensor, learned: bool) -> Tensor:
        known = [name, *self._aliases(tensor)]
        cut = next((n for n in known if n in self.cuts.kept), None)
        if cut is None:
            return tensor
        kept = self.cuts.applied(cut, tensor.detach()).clone()
        return nn.Parameter(kept, tensor.requires_grad) if learned else kept

    def _aliases(self, tensor: Tensor) -> list[str]:
        named = (*self.model.named_parameters(remove_duplicate=False),
                 *self.model.named_buffers(remove_duplicate=False))  # fmt: skip
        return [name for name, other in named if other is tensor]

    def _renumber(self, path: str, module: nn.Module) -> None:
        """Set what a module says about its size."""
        weight = module._parameters.get("weight")
        old = self.before[path]
        old_weight = self.cuts._tensors.get(f"{path}.weight" if path else "weight")
        if isinstance(module, _ConvNd) and weight is not None and old_weight is not None:
            if module.groups > 1:
                module.groups = module.groups * weight.shape[0] // old_weight.shape[0]
            first, second = weight.shape[0], weight.shape[1] * max(1, module.groups)
            turned = isinstance(module, _ConvTransposeNd)
            module.in_channels, module.out_channels = (first, second) if turned else (second, first)
        elif isinstance(module, nn.Linear) and weight is not None:
            module.out_features, module.in_features = weight.shape
        elif isinstance(module, _NormBase):
            vector = weight if weight is not None else module.running_mean
            module.num_features = 0 if vector is None else vector.shape[0]
        elif isinstance(module, nn.GroupNorm) and weight is not None:
            module.num_groups = module.num_groups * weight.shape[0] // module.num_channels
            module.num_channels = weight.shape[0]
        elif isinstance(module, nn.Embedding) and weight is not None:
            module.embedding_dim = weight.shape[1]
        elif isinstance(module, nn.PReLU) and weight is not None:
            module.num_parameters = weight.shape[0]
        elif isinstance(module, nn.RNNBase):
            module.input_size = module.get_parameter("weight_ih_l0").shape[1]
            module.flatten_parameters()
        elif isinstance(module, nn.MultiheadAttention):
            rows = self.cuts.kept.get(f"{path}.in_proj_weight", {}).get(0)
            if rows is not None:
                assert isinstance(old, nn.MultiheadAttention)
                _replace(self.model, path, pruned_attention(path, module, rows))

    def _remove_vanished(self) -> None:
        """Put stand-ins where a layer writes or reads no channel any more."""
        dead = self._dead_tensors()
        reads = {
            self.extraction.owners[layer.name]
            for layer in self.extraction.graph.layers
            if layer.inputs and all(tensor in dead for tensor in layer.inputs)
        }
        for path, module in list(self.model.named_modules()):
            if isinstance(module, _ConvNd):
                if module.out_channels == 0 or module.groups == 0:
                    _replace(self.model, path, Vanished(path, module))
                elif module.in_channels == 0:
                    stand_in = Constant(path, module, module.bias, module.out_channels)
                    _replace(self.model, path, stand_in)
            elif _normalises_nothing(module):
                _replace(self.model, path, nn.Identity())
            elif isinstance(module, WINDOWED) and path in reads:
                _replace(self.model, path, Vanished(path, module))

    def _dead_tensors(self) -> set[str]:
        """Tensors of which no channel is left."""
        found: set[str] = set()
        for layer in self.extraction.graph.layers:
            module = dict(self.model.named_modules()).get(self.extraction.owners[layer.name])
            if layer.op in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
                if isinstance(module, _ConvNd) and module.out_channels == 0:
                    found.add(layer.outputs[0].name)
            elif layer.inputs and all(tensor in found for tensor in layer.inputs):
                found.update(tensor.name for tensor in layer.outputs)
        return found


def _as_it_is(module: nn.Module) -> nn.Module:
    """A module of the same class with the same attributes, sharing all that they hold."""
    same = type(module).__new__(type(module))
    same.__dict__ = dict(module.__dict__)
    return same


def _normalises_nothing(module: nn.Module) -> bool:
    if isinstance(module, _NormBase):
        return module.num_features == 0
    return isinstance(module, nn.GroupNorm) and module.num_channels == 0


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    if not path:
        raise PruningError("nothing of the model would be left; prune with a floor of at least 1")
    parent, _, name = path.rpartition(".")
    module.train(model.get_submodule(path).training)
    setattr(model.get_submodule(parent), name, module)


def _refuse_severed(extraction: Extraction, cuts: Cuts) -> None:
    """See that something still leads from the inputs to the outputs."""
    gone = {
        layer
        for (layer, role), pieces in extraction.pieces.items()
        if role == "weight" and any(cuts.is_gone(piece.name) for piece in pieces)
    }
    graph = extraction.graph
    reached = {tensor.name for tensor in graph.inputs}
    for layer in graph.layers:
        if layer.name not in gone and any(tensor in reached for tensor in layer.inputs):
            reached.update(tensor.name for tensor in layer.outputs)
    lost = [tensor for tensor in graph.outputs if tensor not in reached]
    if lost:
        raise PruningError(
            f"no live channel leads from the inputs to output {lost[0]!r}: the strength was too "
            "high, or the threshold; regularizer.structure(floor=1) keeps a channel of every group"
        )


def _resize(
    model: nn.Module,
    extraction: Extraction,
    structure: Structure,
    hooks: Mapping[type[nn.Module] | str, Resize],
    replaced: set[nn.Module],
) -> None:
    """Let modules name what is left of heads and channels in their reshapes and splits.

    Args:
        replaced: modules of the copy that are new, and know their sizes.
    """
    left = _extents_left(extraction, structure)
    for path, calls in extraction.named.items():
        module = model.get_submodule(path)
        own = {place: call for place, call in enumerate(calls) if call.layer in left}
        if not own or module in replaced:
            continue
        hook = hooks.get(path) or hooks.get(type(module))
        if hook is not None:
            axes = {
                f"{call.layer}[{axis}]": (before, int(kept.sum()))
                for call in own.values()
                for axis, (before, kept) in left[call.layer].items()
            }
            hook(module, axes)
            continue
        changes = {
            place: _change(call.kind, extraction.graph.by_name[call.layer], left[call.layer])
            for place, call in own.items()
        }
        forward = module.__dict__.get("forward")
        if isinstance(forward, AdjustedForward):
            forward.adjust(changes)
        else:
            module.forward = AdjustedForward(module, changes)


_Axes = dict[int, tuple[int, BoolArray]]


def _extents_left(extraction: Extraction, structure: Structure) -> dict[str, _Axes]:
    """Per layer that reshapes or splits and axis: its extent, and which positions stay.

    Axes are of what a Reshape writes and of what a Split reads.
    """
    found: dict[str, _Axes] = {}
    for dead in dead_members(structure):
        member = dead.member
        layer = extraction.graph.by_name[member.layer]
        if (layer.op, member.role) == ("Reshape", "output"):
            shape = layer.outputs[0].shape
        elif (layer.op, member.role) == ("Split", "input"):
            shape = extraction.graph.shapes[layer.inputs[0]]
        else:
            continue
        axes = found.setdefault(layer.name, {})
        extent = shape[member.axis]
        _, kept = axes.setdefault(member.axis, (extent, np.ones(extent, dtype=np.bool_)))
        kept[dead.positions] = False
    return found


def _change(kind: str, layer: Layer, axes: _Axes) -> Change:
    if layer.op == "Split":
        axis = int(layer.attributes["axis"])
        _, kept = axes[axis]
        ends = np.cumsum([0, *layer.attributes["split"]])
        sizes = [int(kept[a:b].sum()) for a, b in pairwise(ends)]
        return Change(kind, sizes=tuple(sizes))
    extents = {axis: int(kept.sum()) for axis, (_, kept) in axes.items()}
    return Change(kind, layer.outputs[0].shape, extents)


def _compare(
    original: nn.Module,
    smaller: nn.Module,
    example_inputs: Any,
    batch_axis: int | None,
    tolerance: float,
) -> None:
    args, kwargs = with_rows(example_inputs, 1, batch_axis)
    was = [module.training for module in smaller.modules()]
    try:
        with torch.no_grad():
            wanted = list(tensors_in(original.eval()(*args, **kwargs)))
            try:
                got = list(tensors_in(smaller.eval()(*args, **kwargs)))
            except Exception as error:  # whatever the user's code raises
                raise PruningError(_does_not_run(smaller, args, kwargs, error)) from error
    finally:
        for module, mode in zip(smaller.modules(), was, strict=True):
            module.training = mode
    for place, (a, b) in enumerate(zip(wanted, got, strict=True)):
        if a.shape != b.shape:
            raise PruningError(
                f"output {place} has shape {list(b.shape)} after pruning and {list(a.shape)} before"
            )
        if not a.is_floating_point() or not a.numel():
            continue
        scale = max(1.0, float(a.abs().max()))
        apart = float((a - b).abs().max())
        if not apart <= tolerance * scale:
            raise PruningError(
                f"output {place} of the pruned model differs from that of the masked one by "
                f"{apart:.3g}: some module computes with numbers of channels that were not cut; "
                "keep its channels with exclude=..., or say how it is cut with resize=..."
            )


def _does_not_run(model: nn.Module, args: Any, kwargs: Any, error: Exception) -> str:
    """Which module fails, found by running the model once more with its modules watched."""
    running: list[str] = []
    handles = []
    for path, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda *_, p=path: running.append(p)))
        handles.append(module.register_forward_hook(lambda *_: running.pop() and None))
    try:
        with torch.no_grad():
            model(*args, **kwargs)
    except Exception:  # the same one once more: only the place is of interest
        pass
    finally:
        for handle in handles:
            handle.remove()
    where = running[-1] if running else ""
    named = f"module {where!r}" if where else "the model's own forward"
    return (
        f"{named} does not run with fewer channels: {error}. Its code has numbers of channels or "
        "heads in it. Let it read them from its tensors, say how it is cut with "
        f"resize={{{where!r}: function}}, or keep its channels with exclude=..."
    )


__all__ = ["PrunedMultiheadAttention", "masked", "prune", "rebuild"]
