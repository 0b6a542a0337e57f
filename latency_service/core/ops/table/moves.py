"""Rows of the operators that move data and compute nothing."""

from __future__ import annotations

from collections.abc import Iterator

from latency_service.core.ops import layouts, shapes, values
from latency_service.core.ops.op import Op, Traffic


def rows() -> Iterator[Op]:
    """The rows of this family."""
    family = "moving data"
    yield Op(
        "Transpose",
        family,
        shapes.transpose,
        layouts.transpose,
        operands=("data",),
        value=values.transpose,
    )
    for name in ("Concat", "QLinearConcat"):
        yield Op(
            name,
            family,
            shapes.concat,
            layouts.concat,
            operands=("inputs",),
            roles={"inputs": "weight"},
            value=values.concat,
        )
    yield Op(
        "Split",
        family,
        shapes.split,
        layouts.split,
        operands=("input", "split"),
        constants=frozenset({"split"}),
        value=values.split,
    )
    yield Op(
        "Pad",
        family,
        shapes.pad,
        layouts.pad,
        operands=("data", "pads", "constant_value", "axes"),
        constants=frozenset({"pads", "constant_value", "axes"}),
    )
    yield Op(
        "Expand",
        family,
        shapes.expand,
        layouts.expand,
        operands=("input", "shape"),
        constants=frozenset({"shape"}),
        value=values.expand,
    )
    yield Op(
        "Tile",
        family,
        shapes.tile,
        layouts.tile,
        operands=("input", "repeats"),
        constants=frozenset({"repeats"}),
        value=values.tile,
    )
    yield Op(
        "Resize",
        family,
        shapes.resize,
        layouts.resize,
        operands=("X", "roi", "scales", "sizes"),
        constants=frozenset({"roi", "scales", "sizes"}),
    )
    yield Op(
        "Upsample",
        family,
        shapes.resize,
        layouts.resize,
        operands=("X", "scales"),
        constants=frozenset({"scales"}),
    )
    yield Op(
        "DepthToSpace", family, shapes.depth_to_space, layouts.depth_to_space, operands=("input",)
    )
    yield Op(
        "SpaceToDepth", family, shapes.space_to_depth, layouts.space_to_depth, operands=("input",)
    )
    yield Op(
        "Slice",
        family,
        shapes.slice_,
        layouts.slice_,
        Traffic.TOUCH,
        operands=("data", "starts", "ends", "axes", "steps"),
        constants=frozenset({"starts", "ends", "axes", "steps"}),
        value=values.slice_,
    )
    yield Op(
        "Gather",
        family,
        shapes.gather,
        layouts.gather,
        Traffic.TOUCH,
        operands=("data", "indices"),
        constants=frozenset({"indices"}),
        roles={"data": "weight"},
        value=values.gather,
    )
    yield Op(
        "GatherElements",
        family,
        shapes.gather_elements,
        layouts.opaque,
        Traffic.TOUCH,
        operands=("data", "indices"),
        constants=frozenset({"indices"}),
    )
    yield Op(
        "GatherND",
        family,
        shapes.gather_nd,
        layouts.opaque,
        Traffic.TOUCH,
        operands=("data", "indices"),
        constants=frozenset({"indices"}),
    )
    for name in ("ScatterND", "ScatterElements"):
        yield Op(
            name,
            family,
            shapes.same,
            layouts.opaque,
            operands=("data", "indices", "updates"),
            roles={"data": "weight", "indices": "state", "updates": "weight"},
        )
    for name in ("Trilu", "ReverseSequence"):
        yield Op(
            name,
            family,
            shapes.same,
            layouts.opaque,
            operands=("input", "k"),
            constants=frozenset({"k", "sequence_lens"}),
            value=values.trilu if name == "Trilu" else None,
        )
    yield Op("GridSample", family, shapes.grid_sample, layouts.keep_leading, operands=("X", "grid"))
    yield Op(
        "RoiAlign",
        family,
        shapes.roi_align,
        layouts.opaque,
        Traffic.TOUCH,
        operands=("X", "rois", "batch_indices"),
    )
    yield Op(
        "MaxRoiPool",
        family,
        shapes.roi_align,
        layouts.opaque,
        Traffic.TOUCH,
        operands=("X", "rois"),
    )
    yield Op(
        "OneHot",
        family,
        shapes.one_hot,
        layouts.opaque,
        operands=("indices", "depth", "values"),
        constants=frozenset({"depth", "values"}),
    )
    for name in ("NonMaxSuppression", "NonZero", "Compress", "Unique"):
        yield Op(
            name,
            family,
            shapes.declared,
            layouts.opaque,
            operands=("input",),
            constants=frozenset(
                {"max_output_boxes_per_class", "iou_threshold", "score_threshold", "condition"}
            ),
            value=values.nonzero if name == "NonZero" else None,
        )
