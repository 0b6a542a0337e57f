"""FLOPs, weights and shapes are PyTorch's, layer by layer, on what PyTorch exports.

Three files of every network: from the TorchScript exporter as written, from the exporter over
torch.export as written, and the same after its optimiser, which is what users get by default.
"""

from __future__ import annotations

import copy
import io
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript", reason="torch.onnx.export needs it")

from torch import nn  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode, flop_registry  # noqa: E402
from torch.utils.module_tracker import ModuleTracker  # noqa: E402

from latency_service.core.bind import Binding, bind  # noqa: E402
from latency_service.core.costs import CostModel, cost_model  # noqa: E402
from latency_service.core.graph import LayerGraph  # noqa: E402
from latency_service.core.scoring import evaluate, live_counts  # noqa: E402
from latency_service.ingest import read_network  # noqa: E402
from tests.parity.torch_networks import EXAMPLES, MobileNetV1  # noqa: E402

pytestmark = [
    # the exporter that older releases of PyTorch have says that there is a newer one
    pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The feature will be removed:DeprecationWarning:torch"),
    # it says what it assumes of the networks: no length but the batch varies
    pytest.mark.filterwarnings("ignore:Converting a tensor to a Python:torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore:Exporting a model to ONNX with a batch_size:UserWarning"),
    # PyTorch calls what it has itself deprecated
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:_check_is_size will be removed:FutureWarning"),
]

BATCH = 2  # 1 would be taken for a constant
FILES = ("torchscript", "dynamo", "dynamo optimised")
CONVOLUTIONS = ("Conv", "ConvTranspose")

# Files that are refused, and why.
REFUSED = {
    ("shufflenet", "dynamo"): "a sequence of tensors; the optimiser makes it a Split",
}


def cases() -> list[Any]:
    return [
        pytest.param(name, file, id=f"{name}-{file}")
        for name in EXAMPLES
        for file in FILES
        if (name, file) not in REFUSED
    ]


# --- what PyTorch says ---------------------------------------------------------------------------


@dataclass
class Counted(TorchDispatchMode):
    """FLOPs of every operation, by the innermost module that it happens in."""

    flops: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        super().__init__()
        self.tracker = ModuleTracker()

    def __enter__(self) -> Any:
        self.tracker.__enter__()
        return super().__enter__()

    def __exit__(self, *args: Any) -> None:
        self.tracker.__exit__()
        super().__exit__(*args)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            innermost = max(self.tracker.parents, key=len)
            flops = count(*args, **(kwargs or {}), out_val=out)
            self.flops[innermost.partition(".")[2]].append(flops)
        return out


@dataclass
class Truth:
    """What PyTorch knows about a network.

    Attributes:
        learned: {name of the weight: (FLOPs, numbers in it, shape of the output)} of its layers.
        products: {FLOPs: how many} of the products of two activations.
        parameters: numbers learned.
        outputs: their shapes.
    """

    learned: dict[str, tuple[int, int, tuple[int, ...]]]
    products: Counter[int]
    parameters: int
    flops: int
    outputs: list[tuple[int, ...]]


def truth(model: nn.Module, inputs: tuple[Any, ...]) -> Truth:
    # in double precision, for which there are no fused recurrent layers that hide their products
    model = copy.deepcopy(model).double()
    inputs = tuple(x.double() if x.is_floating_point() else x for x in inputs)
    ...
