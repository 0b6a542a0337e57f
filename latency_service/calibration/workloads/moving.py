"""Operators that move data and compute nothing."""

from __future__ import annotations

from latency_service.calibration.workloads.shapes import (
    TOKENS,
    Make,
    Rng,
    batch_size,
    channels,
    fits,
    image_shape,
    sequence_shape,
)
from latency_service.core.sample import Workload


def transpose(rng: Rng) -> Workload:
    """Heads, channels last and back, windows."""
    how = rng.random()
    if how < 0.35:  # heads
        n, tokens, heads, width = (
            batch_size(rng), int(rng.choice(TOKENS)), int(rng.choice([2, 3, 4, 6, 8, 12])),
            int(rng.choice([16, 32, 48, 64])),
        )  # fmt: skip
        shape: tuple[int, ...] = (n, tokens, heads, width)
        perm = [0, 2, 1, 3] if rng.random() < 0.6 else [0, 2, 3, 1]
    elif how < 0.65:
        return turned(rng)
    elif how < 0.85:
        shape, perm = sequence_shape(rng), [0, 2, 1]
    else:  # windows
        n, edge, window, width = (
            1, int(rng.choice([2, 4, 8])), int(rng.choice([7, 8])), channels(rng, 32, 384),
        )  # fmt: skip
        shape, perm = (n, edge, window, edge, window, width), [0, 1, 3, 2, 4, 5]
    return _transposed(shape, perm)


def view(rng: Rng) -> Workload:
    """Heads of attention, or all of an image in one row."""
    rows = sequence_shape(rng)
    n, tokens, width = rows
    heads = next(count for count in (8, 4, 3, 2, 1) if width % count == 0)
    shape: tuple[int, ...] = (n, tokens, heads, width // heads)
    if rng.random() < 0.3:
        shape = (n * tokens, width)
    return Workload("Reshape", (rows,), {"shape": list(shape)}, outputs=(shape,))


def scattered(rng: Rng) -> Workload:
    """Several axes change places, the last among them; runtimes move element by element."""
    n, tokens, width = sequence_shape(rng, 300_000)
    heads, tokens = int(rng.choice([1, 1, 2, 4, 8])), max(tokens, 2)
    if rng.random() < 0.7:
        return _transposed((n, heads, tokens, max(width // heads, 2)), [0, 3, 2, 1])
    return _transposed((tokens, n, width), [2, 1, 0])


def _transposed(shape: tuple[int, ...], perm: list[int]) -> Workload:
    out = tuple(shape[axis] for axis in perm)
    return Workload("Transpose", (shape,), {"perm": perm}, outputs=(out,))


def concat(rng: Rng) -> Workload:
    """Two images, by their channels."""
    while True:
        image = image_shape(rng)
        other = (image[0], channels(rng, 8, 512), *image[2:])
        out = (image[0], image[1] + other[1], *image[2:])
        work = Workload("Concat", (image, other), {"axis": 1}, outputs=(out,))
        if fits(work, 0.0):
            return work


def joined_last(rng: Rng) -> Workload:
    """Two images or more, by channels that stand last as often as first."""
    while True:
        n, first, height, width = image_shape(rng)
        count = int(rng.choice([2, 2, 2, 3, 4]))
        pieces = [first, *(channels(rng, 8, 512) for _ in range(count - 1))]
        if rng.random() < 0.6:
            shapes, axis = tuple((n, height, width, piece) for piece in pieces), 3
            out: tuple[int, ...] = (n, height, width, sum(pieces))
        else:
            shapes, axis = tuple((n, piece, height, width) for piece in pieces), 1
            out = (n, sum(pieces), height, width)
        work = Workload("QLinearConcat", shapes, {"axis": axis}, "int8", outputs=(out,))
        if fits(work, 0.0):
            return work


def turned(rng: Rng) -> Workload:
    """An image whose channels go behind its positions, or back."""
    shape, perm = image_shape(rng), [0, 2, 3, 1]
    if rng.random() < 0.5:
        shape, perm = (shape[0], shape[2], shape[3], shape[1]), [0, 3, 1, 2]
    return _transposed(shape, perm)


def split(rng: Rng) -> Workload:
    """Queries, keys and values; or half the channels each."""
    if rng.random() < 0.5:
        n, tokens, width = sequence_shape(rng)
        parts, width = 3, max(width // 3, 1)
        whole: tuple[int, ...] = (n, tokens, width * parts)
        piece: tuple[int, ...] = (n, tokens, width)
        axis = 2
    else:
        image = image_shape(rng)
        parts, half, axis = 2, max(image[1] // 2, 1), 1
        whole, piece = (image[0], 2 * half, *image[2:]), (image[0], half, *image[2:])
    attributes = {"axis": axis, "split": [piece[axis]] * parts}
    return Workload("Split", (whole,), attributes, outputs=(piece,) * parts)


def half(rng: Rng) -> Workload:
    """Half of one axis."""
    image = image_shape(rng) if rng.random() < 0.5 else sequence_shape(rng)
    axis = int(rng.integers(1, len(image)))
    cut = max(image[axis] // 2, 1)
    out = (*image[:axis], cut, *image[axis + 1 :])
    attributes = {"starts": [0], "ends": [cut], "axes": [axis], "steps": [1]}
    return Workload("Slice", (image,), attributes, outputs=(out,))


def pad(rng: Rng) -> Workload:
    """A border of one position."""
    image = image_shape(rng)
    out = (*image[:2], image[2] + 2, image[3] + 2)
    return Workload("Pad", (image,), {"pads": [0, 0, 1, 1, 0, 0, 1, 1]}, outputs=(out,))


def resize(mode: str) -> Make:
    """Twice the height and width."""

    def make(rng: Rng) -> Workload:
        image = image_shape(rng, 250_000)
        out = (*image[:2], image[2] * 2, image[3] * 2)
        attributes = {
            "scales": [1.0, 1.0, 2.0, 2.0],
            "mode": mode,
            "coordinate_transformation_mode": "asymmetric" if mode == "nearest" else "half_pixel",
            **({"nearest_mode": "floor"} if mode == "nearest" else {}),
        }
        return Workload("Resize", (image,), attributes, outputs=(out,))

    return make


def gather(rng: Rng) -> Workload:
    """Rows of an embedding."""
    rows, width = int(rng.choice([1000, 5000, 20000])), channels(rng, 64, 768)
    tokens = int(rng.choice(TOKENS))
    indices = [int(i) for i in rng.integers(0, rows, tokens)]
    return Workload(
        "Gather",
        ((rows, width),),
        {"indices": indices, "axis": 0},
        learned=(0,),
        outputs=((tokens, width),),
    )


def expand(rng: Rng) -> Workload:
    """One value repeated along the last axis."""
    rows = sequence_shape(rng)
    narrow = (*rows[:-1], 1)
    return Workload("Expand", (narrow,), {"shape": list(rows)}, outputs=(rows,))


def one_hot(rng: Rng) -> Workload:
    """Letters or bytes as rows that hold a single one."""
    tokens, depth = int(rng.choice(TOKENS)), channels(rng, 8, 512)
    return Workload(
        "OneHot",
        ((1, tokens),),
        {"axis": -1, "depth": depth, "values": [0.0, 1.0]},
        outputs=((1, tokens, depth),),
    )
