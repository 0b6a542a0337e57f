"""Gates that learn which channels to let through, with the logistic-sigmoid relaxation.

`add_gates(model)` puts one behind every BatchNorm. In training a gate multiplies each channel by a
sample of sigmoid((logit + L) / temperature), L logistic noise, one sample for all rows and
positions of a step; in evaluation by its probability, or by nothing where that is below one half.
Source: Fine-Grained Stochastic Architecture Search (FiGS, Chaudhuri et al., 2020), and MorphNet's
`LogisticSigmoidGating`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvTransposeNd

from latency_client.errors import NothingToPruneError, OptionError, PruningError


class Gate(nn.Module):
    """One number between 0 and 1 for every channel.

    Attributes:
        logits: (C,) log-odds that a channel is on.
        step: training steps so far; drives the annealing.
    """

    step: Tensor

    def __init__(
        self,
        channels: int,
        *,
        axis: int = 1,
        temperature: float = 0.001,
        straight_through: bool = False,
        log_odds_init: float = 2.5,
        soft_mask_for_inference: bool = True,
        keep_first_channel_alive: bool = True,
        annealing_rate: float | None = None,
    ) -> None:
        """Start with every channel on.

        Args:
            axis: of the tensor that the channels lie along.
            temperature: of the relaxation; 0 samples zeros and ones, without a gradient.
            straight_through: zeros and ones forwards, the gradient of the soft sample backwards.
            annealing_rate: steps in which the temperature falls to a tenth; None: it stays.

        Raises:
            OptionError: for a negative temperature or an annealing rate that is not positive.
        """
        super().__init__()
        if temperature < 0:
            raise OptionError(f"temperature={temperature}: it must not be negative")
        if annealing_rate is not None and annealing_rate <= 0:
            raise OptionError(f"annealing_rate={annealing_rate}: it must be positive")
        self.channels = channels
        self.axis = axis
        self.start_temperature = temperature
        self.straight_through = straight_through
        self.soft_mask_for_inference = soft_mask_for_inference
        self.keep_first_channel_alive = keep_first_channel_alive
        self.annealing_rate = annealing_rate
        self.logits = nn.Parameter(torch.full((channels,), float(log_odds_init)))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64), persistent=True)
        self.bypassed = False
        self._mask: Tensor | None = None

    @property
    def temperature(self) -> Tensor | float:
        """Of this step: the first one times 0.1 ^ (step / annealing rate)."""
        if self.annealing_rate is None:
            return self.start_temperature
        return self.start_temperature * 0.1 ** (self.step / self.annealing_rate)

    def probabilities(self) -> Tensor:
        """(C,) that each channel is on."""
        return torch.sigmoid(self.logits)

    def last_mask(self) -> Tensor:
        """(C,) the sample of the last forward pass; before the first, the probabilities."""
        return self.probabilities() if self._mask is None else self._mask

    def sample(self) -> Tensor:
        """(C,) a new sample, with its gradient."""
        noise = torch.rand_like(self.logits).clamp(1e-7, 1 - 1e-7)
        shifted = self.logits + torch.log(noise) - torch.log1p(-noise)
        hard = (shifted > 0).to(shifted.dtype)
        if not self.start_temperature:
            return hard
        soft = torch.sigmoid(shifted / self.temperature)
        return hard + soft - soft.detach() if self.straight_through else soft

    def inference_mask(self) -> Tensor:
        """(C,) what channels are multiplied by once training is over."""
        on = self.logits > 0
        return on * self.probabilities() if self.soft_mask_for_inference else on.to(torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply the channels of a tensor."""
        if self.bypassed:
            return x
        if self.training:
            mask = self.sample()
            self.step += 1
        else:
            mask = self.inference_mask()
        # what the regulariser reads may say that no channel lives; the network keeps one
        self._mask = mask
        return x * self.applied(mask).to(x.dtype).reshape(self._shape(x))

    def applied(self, mask: Tensor) -> Tensor:
        """(C,) a mask with the first channel kept, if that is wanted."""
        if not self.keep_first_channel_alive:
            return mask
        return torch.cat((mask[:1].clamp(min=1.0), mask[1:]))

    def _shape(self, x: Tensor) -> list[int]:
        shape = [1] * x.ndim
        shape[self.axis] = self.channels
        return shape

    def __deepcopy__(self, memo: dict[int, Any]) -> Gate:
        """A sample carries its graph, which cannot be copied; the copy starts without one."""
        copied = self.__class__.__new__(self.__class__)
        memo[id(self)] = copied
        nn.Module.__init__(copied)
        for key, value in self.__dict__.items():
            if key not in ("_mask", "_parameters", "_buffers", "_modules"):
                copied.__dict__[key] = value
        copied.logits = nn.Parameter(self.logits.detach().clone(), self.logits.requires_grad)
        copied.register_buffer("step", self.step.clone())
        copied._mask = None
        return copied


class _Apply:
    """The hook that sends a module's output through its gate."""

    def __call__(self, module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        gate = module.gate
        assert isinstance(gate, Gate)
        result: Tensor = gate(output)
        return result


def add_gates(
    model: nn.Module,
    where: Callable[[str, nn.Module], bool] | None = None,
    **options: Any,
) -> list[str]:
    """Put a gate behind modules of a model, in place.

    The gate becomes their submodule `gate`: their own parameters keep their names.

    Args:
        where: whether a module of some path gets one; default: every BatchNorm, or, where there is
            none, every convolution.
        options: of `Gate`.

    Returns:
        The paths of the gated modules.

    Raises:
        NothingToPruneError: if no module of the model is chosen.
    """
    convolutions = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d,
                    nn.ConvTranspose3d)  # fmt: skip
    if where is None:
        has_norm = any(isinstance(module, _BatchNorm) for module in model.modules())
        kinds: tuple[type[nn.Module], ...] = (_BatchNorm,) if has_norm else convolutions

        def where(_path: str, module: nn.Module) -> bool:
            return isinstance(module, kinds)

    chosen = [(path, m) for path, m in model.named_modules() if where(path, m)]
    for path, module in chosen:
        channels = getattr(module, "num_features", getattr(module, "out_channels", None))
        if channels is None:
            raise OptionError(
                f"module {path!r} ({type(module).__name__}) has no channels that a gate could "
                "multiply; choose BatchNorms or convolutions"
            )
        gate = Gate(channels, **options).train(module.training)
        reference = next(module.parameters(), None)
        module.add_module("gate", gate if reference is None else gate.to(reference.device))
        module.register_forward_hook(_Apply())
    if not chosen:
        raise NothingToPruneError(
            "the model has neither BatchNorm nor convolutions to put gates behind; say where with "
            "add_gates(model, where=lambda path, module: ...)"
        )
    return [path for path, _ in chosen]


def gates_of(model: nn.Module) -> dict[str, Gate]:
    """Gates by the path of the module that they are behind."""
    return {
        path: module.gate
        for path, module in model.named_modules()
        if isinstance(getattr(module, "gate", None), Gate)
    }


def fold_gates(model: nn.Module) -> None:
    """Multiply every gate into the parameters before it, and take it away, in place.

    Raises:
        PruningError: for a gate behind a module without parameters to multiply.
    """
    for path, gate in gates_of(model).items():
        module = model.get_submodule(path)
        mask = gate.applied(gate.inference_mask()).detach()
        weight, bias = module._parameters.get("weight"), module._parameters.get("bias")
        if weight is None:
            raise PruningError(
                f"the gate of {path!r} stands behind a module without a scale; it cannot become "
                "part of it: let the BatchNorm have affine=True"
            )
        transposed = isinstance(module, _ConvTransposeNd)
        axis = 1 if transposed else 0
        if transposed and weight.shape[1] != gate.channels:
            raise PruningError(f"the gate of the grouped transposed convolution {path!r} cannot go")
        shape = [1] * weight.ndim
        shape[axis] = gate.channels
        with torch.no_grad():
            weight.mul_(mask.to(weight.dtype).reshape(shape))
            if bias is not None:
                bias.mul_(mask.to(bias.dtype))
        for key, hook in list(module._forward_hooks.items()):
            if isinstance(hook, _Apply):
                del module._forward_hooks[key]
        del module.gate


@contextmanager
def bypassed(model: nn.Module) -> Iterator[None]:
    """Gates let everything through: at inference they are part of the scale before them."""
    gates = [module for module in model.modules() if isinstance(module, Gate)]
    for gate in gates:
        gate.bypassed = True
    try:
        yield
    finally:
        for gate in gates:
            gate.bypassed = False
