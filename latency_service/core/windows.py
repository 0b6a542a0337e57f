"""Where the windows of a convolution see its image, and where padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from latency_service.core.node import Node

# Taps along an axis that are looked at one by one.
_MOST_TAPS = 1024


@dataclass(frozen=True, slots=True)
class Window:
    """A convolution's window along one axis.

    Attributes:
        size: how many taps it has.
        stride, dilation: positions from one window, or one tap, to the next.
        before: positions of padding in front of the image.
        extent: positions of the image.
        count: how many windows there are: output positions.
    """

    size: int
    stride: int
    dilation: int
    before: int
    extent: int
    count: int

    def seen(self, tap: int) -> tuple[int, int]:
        """(first, last + 1) output position at which a tap falls on the image."""
        offset = tap * self.dilation - self.before  # of this tap at the first output position
        first = max(-(offset // self.stride), 0)
        last = min((self.extent - 1 - offset) // self.stride, self.count - 1)
        return first, max(last + 1, first)

    @property
    def inside(self) -> float:
        """Share of the taps that fall on the image."""
        # wider windows than any network's are sampled, so that none takes long
        taps = range(0, self.size, -(-self.size // _MOST_TAPS) or 1)
        seen = sum(end - first for first, end in map(self.seen, taps))
        return seen / max(len(taps) * self.count, 1)

    @property
    def clear(self) -> int:
        """Output positions at which all taps fall on the image."""
        return max(self.seen(self.size - 1)[1] - self.seen(0)[0], 0)


def windows(
    node: Node, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[Window]:
    """A convolution's window along each axis."""
    x, out = node.x.shape[2:], node.outputs[0].shape[2:]
    auto = node.text("auto_pad", "NOTSET")
    pads = node.integers("pads") or [0] * (2 * len(kernel))
    found = []
    for axis, (size, extent, count) in enumerate(zip(kernel, x, out, strict=True)):
        stride, dilation, before = strides[axis], dilations[axis], pads[axis]
        if auto.startswith("SAME"):
            all_padding = max((count - 1) * stride + dilation * (size - 1) + 1 - extent, 0)
            before = (all_padding + (auto == "SAME_LOWER")) // 2
        elif auto == "VALID":
            before = 0
        found.append(Window(size, stride, dilation, before, extent, count))
    return found
