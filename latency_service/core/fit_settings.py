"""What the fit of a family depends on beside its samples."""

from __future__ import annotations

from dataclasses import dataclass, replace

from latency_service.core.efficiency import Layout
from latency_service.core.geometry import COMPUTED, LINE, RECURRENT
from latency_service.core.ops import OPS

# Columns that onnxruntime computes at once (MlasSgemmCopyPackB in mlas/lib/sgemm.cpp packs the
# second matrix so); those of a convolution are the positions of one image.
_PANEL = 16


@dataclass(frozen=True, slots=True)
class Settings:
    """What a fit depends on beside the samples.

    Attributes:
        units: processors that share a kernel's tiles; 1 on a CPU.
        support: most support points of a family.
        learn_from: most samples that the length scales are learned from.
        resolution_s: of the clock that took the samples.
        layout: of the runtime; None where it keeps one.
        core_bytes: of the cache that a core has for itself; 0 where none was measured.
        panel: positions of an image that the family's kernels compute at once; 0: any number.
        in_parts: whether the family is that of a recurrent operator, on a CPU.
    """

    units: int = 1
    support: int = 384
    learn_from: int = 480
    resolution_s: float = 0.5e-6
    layout: Layout | None = None
    core_bytes: float = 0.0
    panel: int = 0
    in_parts: bool = False


def gpu_settings(units: int) -> Settings:
    """Settings for a GPU of so many multiprocessors, whose convolutions need more of everything."""
    return Settings(units=units, support=384, learn_from=640)


_PRODUCTS = frozenset({"Gemm", "MatMul"})


def settings_of(family: str, settings: Settings) -> Settings:
    """The settings of one family: on a GPU all but convolutions need more still.

    Only convolutions over images whose weights are there beforehand run on blocks of channels; the
    others, and those along one axis, are products of matrices, but for depthwise ones. The
    libraries for products of matrices choose among dozens of kernels: with 384 points errors on
    samples left out are a quarter larger. The other families are cheap to
    learn from more samples.
    """
    op = family.partition("/")[0]
    if family.endswith((LINE, COMPUTED)) and settings.layout is not None:
        whole = "depthwise" not in family
        settings = replace(settings, layout=None, panel=_PANEL if whole else 0)
    if op != "Conv":
        settings = replace(settings, layout=None)
    if op in RECURRENT and settings.units == 1:
        settings = replace(settings, in_parts=True)
    if settings.units == 1 or op.startswith("Conv"):
        return settings
    if op in _PRODUCTS:
        return replace(settings, support=1200, learn_from=1600)
    return replace(settings, learn_from=1000)


# Operators over the trailing axes, whatever axes there are before them.
_SOFTMAX = frozenset({"Softmax", "LogSoftmax"})
_BY_ROWS = _SOFTMAX | {"LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"}
_AXES = frozenset({"log_width", "log_images"})


def unseen(family: str) -> frozenset[str]:
    """Features that a family's kernels on a GPU cannot depend on.

    Elementwise kernels see one run of elements, those over trailing axes see rows of them: [4, 20,
    1024, 1024] and [81920, 1024] are the same to them.
    """
    op, _, kind = family.partition("/")
    rows = frozenset() if op in _SOFTMAX else frozenset({"long_rows"})
    if op in _BY_ROWS and not kind:
        return _AXES | rows
    if op in OPS and OPS[op].family == "elementwise":
        return _AXES | rows | (frozenset() if kind == "broadcast" else {"log_inner", "log_rows"})
    return rows
