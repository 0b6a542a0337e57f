"""Stand-ins for layers of which nothing is left, so that a dead branch costs nothing.

They write what the layer would have written, without its channels or without its input. Sizes are
worked out from numbers alone, so that a pruned model can be exported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from latency_client.errors import PruningError


def sizes_of(path: str, module: nn.Module) -> Geometry:
    """How a module changes the size of an image, along every spatial axis.

    Raises:
        PruningError: for a module whose geometry is not known.
    """
    for kinds, make in _GEOMETRIES:
        if isinstance(module, kinds):
            return make(module)
    raise PruningError(
        f"module {path!r} ({type(module).__name__}) has lost all its channels, and the size of "
        "what it writes is not known; keep a channel with regularizer.structure(floor=1)"
    )


class Geometry:
    """Output size of a window that slides over an image, or a size that is stated."""

    def __init__(self, kind: str, **numbers: Any) -> None:
        """Keep the numbers; `kind` is window, transposed, stated or scaled."""
        self.kind = kind
        self.numbers = numbers

    def __call__(self, size: Sequence[int]) -> list[int]:
        """Spatial size of the output."""
        return [self._along(axis, extent, len(size)) for axis, extent in enumerate(size)]

    def _along(self, axis: int, extent: int, rank: int) -> int:
        def number(name: str) -> int:
            value = self.numbers[name]
            return int(value[axis] if isinstance(value, list | tuple) else value)

        if self.kind == "stated":
            value = self.numbers["size"]
            stated = value[axis] if isinstance(value, list | tuple) else value
            return extent if stated is None else int(stated)
        if self.kind == "scaled":
            value = self.numbers["factor"]
            return int(extent * (value[axis] if isinstance(value, list | tuple) else value))
        window = number("dilation") * (number("kernel_size") - 1) + 1
        stride = number("stride")
        if self.kind == "transposed":
            spread = (extent - 1) * stride - 2 * number("padding")
            return spread + window + number("output_padding")
        if self.numbers["padding"] == "same":
            return extent
        padding = 0 if self.numbers["padding"] == "valid" else number("padding")
        room = extent + 2 * padding - window
        if not self.numbers.get("ceil_mode"):
            return room // stride + 1
        count = -(-room // stride) + 1
        # a last window that would begin in the end padding is dropped
        return count - 1 if (count - 1) * stride >= extent + padding else count


def _transposed(module: Any) -> Geometry:
    names = ("kernel_size", "stride", "padding", "output_padding", "dilation")
    return Geometry("transposed", **{name: getattr(module, name) for name in names})


def _window(module: Any) -> Geometry:
    return Geometry(
        "window",
        kernel_size=module.kernel_size,
        stride=module.stride,
        padding=module.padding,
        dilation=getattr(module, "dilation", 1),
        ceil_mode=getattr(module, "ceil_mode", False),
    )


def _adaptive(module: Any) -> Geometry:
    return Geometry("stated", size=module.output_size)


def _upsampled(module: Any) -> Geometry:
    if module.size is not None:
        return Geometry("stated", size=module.size)
    return Geometry("scaled", factor=module.scale_factor)


_ADAPTIVE = (
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
)  # fmt: skip
_POOLS = (
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
)  # fmt: skip

_GEOMETRIES: tuple[tuple[Any, Callable[[Any], Geometry]], ...] = (
    (_ConvTransposeNd, _transposed),
    (_ConvNd, _window),
    (_POOLS, _window),
    (_ADAPTIVE, _adaptive),
    (nn.Upsample, _upsampled),
)

# Modules without parameters that refuse tensors without channels.
WINDOWED = (*_POOLS, *_ADAPTIVE, nn.Upsample)


class Vanished(nn.Module):
    """A layer that writes no channel any more."""

    def __init__(self, path: str, module: nn.Module) -> None:
        """Take over the geometry of a module."""
        super().__init__()
        self.geometry = sizes_of(path, module)

    def forward(self, x: Tensor) -> Tensor:
        """A tensor without channels, of the right size otherwise."""
        return x.new_zeros([x.shape[0], 0, *self.geometry(x.shape[2:])])


class Constant(nn.Module):
    """A convolution that reads no channel any more: what is left of it is its bias."""

    def __init__(self, path: str, module: nn.Module, bias: Tensor | None, width: int) -> None:
        """Keep the bias; `width` channels are written."""
        super().__init__()
        self.geometry = sizes_of(path, module)
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        """The bias at every position."""
        shape = [x.shape[0], self.width, *self.geometry(x.shape[2:])]
        if self.bias is None:
            return x.new_zeros(shape)
        column = self.bias.reshape(1, -1, *[1] * (len(shape) - 2))
        return column.to(x.dtype).expand(shape)
