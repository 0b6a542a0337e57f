"""The penalty in `model.fit`, what training shows, and costs over candidate branches."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from latency_client.errors import OptionError
from latency_client.resources import LATENCY
from latency_client.structure import Structure, write_structure
from latency_client.wire import Answer

Tensor = Any


class PenalizedModel(keras.Model):  # type: ignore[misc]  # Keras has no types
    """A model whose loss has a regulariser's penalty added: for compile and fit.

    Its layers and variables are those of the model inside; train this one, use that one.

    Attributes:
        inner: the model.
        regularizer: that was built for it.
        strength: what the penalty is multiplied by; a variable, so that it may be scheduled.
    """

    def __init__(self, inner: Any, regularizer: Any, strength: float, **options: Any) -> None:
        """Wrap a model.

        Raises:
            OptionError: for a negative strength.
        """
        if not strength >= 0:
            raise OptionError(f"strength={strength}: it must be at least 0")
        super().__init__(name=f"{inner.name}_penalized", **options)
        self.inner = inner
        self.regularizer = regularizer
        self.strength = self.add_weight(
            name="strength", shape=(), initializer="zeros", trainable=False, dtype="float32"
        )
        self.strength.assign(strength)
        self._penalties = keras.metrics.Mean(name="penalty")
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """The inner model."""
        return self.inner(inputs, training=training)

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        """The loss of the task, plus strength times penalty."""
        loss = super().compute_loss(*args, **kwargs)
        penalty = self.strength * self.regularizer.get_regularization_term()
        self._penalties.update_state(penalty)
        return loss + keras.ops.cast(penalty, loss.dtype)


def with_penalty(model: Any, regularizer: Any, strength: float) -> PenalizedModel:
    """A model to compile and fit whose loss has the penalty added.

    The metric `penalty` is the mean of strength times penalty.
    """
    return PenalizedModel(model, regularizer, strength)


class PenaltyCallback(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """Shows cost and live channels after every epoch, and refreshes coefficients (`refresh_every`).

    The logs get `cost` and `alive`; TensorBoard gets `latency/cost/<device>`, `latency/penalty`,
    `latency/alive/<layer>` and the histogram `latency/strengths/<layer>`, which shows where the
    threshold belongs.
    """

    def __init__(
        self,
        regularizer: Any,
        *,
        log_dir: str | None = None,
        export_to: str | None = None,
    ) -> None:
        """Choose what is done.

        Args:
            log_dir: of TensorBoard; None: no summaries.
            export_to: a folder that gets the structure after every epoch.
        """
        super().__init__()
        self.regularizer = regularizer
        self._export_to = export_to
        self._writer = None if log_dir is None else _summary_writer(log_dir)
        self._step = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Refresh the coefficients where it is time."""
        self._step += 1
        self.regularizer.step_done()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Add to the logs, write summaries and the structure."""
        structure = self.regularizer.structure()
        if logs is not None:
            logs["cost"] = float(self.regularizer.get_cost())
            logs["alive"] = float(sum(structure.group_counts().values()))
        if self._writer is not None:
            write_summaries(self._writer, self.regularizer, structure, self._step)
        if self._export_to is not None:
            write_structure(self._export_to, self._step, structure)


def _summary_writer(log_dir: str) -> Any:
    for package, remedy in (("tensorflow", "tensorflow-cpu"), ("tensorboard", "tensorboard")):
        if importlib.util.find_spec(package) is None:
            raise OptionError(
                f"TensorBoard summaries need {package}: pip install {remedy}, or leave log_dir out"
            )
    from tensorflow import summary

    return summary.create_file_writer(log_dir)


def write_summaries(writer: Any, regularizer: Any, structure: Structure, step: int) -> None:
    """Write scalars and histograms of one step.

    Args:
        writer: of `tf.summary.create_file_writer`.
    """
    from tensorflow import summary

    with writer.as_default(step=step):
        summary.scalar("latency/penalty", float(regularizer.get_regularization_term()))
        for device, cost in regularizer.costs_by_device().items():
            summary.scalar(f"latency/cost/{device}", cost)
        for layer, width in structure.layers.items():
            summary.scalar(f"latency/alive/{layer}", len(width.alive) / width.size)
        for layer, strengths in regularizer.strengths().items():
            summary.histogram(f"latency/strengths/{layer}", strengths)
    writer.flush()


class StructureExporter:
    """Writes MorphNet's file of live channels, and the richer one beside it."""

    def __init__(self, regularizer: Any, *, floor: int = 0, multiple_of: int | str = 1) -> None:
        """Choose how the structure is rounded (`structure.rounded`)."""
        self.regularizer = regularizer
        self._rounding = {"floor": floor, "multiple_of": multiple_of}

    def structure(self) -> Structure:
        """What lives now, rounded."""
        made: Structure = self.regularizer.structure(**self._rounding)
        return made

    def alive_counts(self) -> dict[str, int]:
        """Live output channels by layer."""
        return self.structure().alive_counts()

    def save(self, folder: str, step: int) -> str:
        """Write `learned_structure/alive_{step}` and `structure_{step}.json`; returns the first."""
        return str(write_structure(folder, step, self.structure()))


class ExpectedLatency:
    """Seconds that a choice among branches takes on average (ProxylessNAS, Cai et al., 2019).

    sum over choices of sum over branches of probability times the branch's latency, differentiable
    in the probabilities. A branch that is a regulariser takes as long as its live channels do.
    """

    def __init__(self, choices: Sequence[Sequence[Any]]) -> None:
        """Name the branches of every choice.

        Args:
            choices: per choice its branches: answers, latency regularisers, or seconds.

        Raises:
            OptionError: for an empty choice, or a regulariser of something else than latency.
        """
        if not choices or not all(choices):
            raise OptionError("every choice needs at least one branch")
        for branch in (b for branches in choices for b in branches):
            resource = getattr(branch, "resource", LATENCY)
            if resource is not LATENCY:
                raise OptionError(
                    f"a branch is a {type(branch).__name__}, which counts {resource.unit}; pass a "
                    "latency regulariser, an answer or seconds"
                )
        self._choices = [list(branches) for branches in choices]

    def __call__(self, probabilities: Sequence[Tensor]) -> Tensor:
        """Expected seconds.

        Args:
            probabilities: per choice one number per branch.

        Raises:
            OptionError: if their shapes are others.
        """
        if len(probabilities) != len(self._choices):
            raise OptionError(
                f"{len(probabilities)} vectors of probabilities for {len(self._choices)} choices"
            )
        total = keras.ops.zeros((), dtype="float32")
        for given, branches in zip(probabilities, self._choices, strict=True):
            if tuple(given.shape) != (len(branches),):
                raise OptionError(
                    f"probabilities of shape {list(given.shape)} for {len(branches)} branches"
                )
            seconds = keras.ops.stack([_seconds(branch) for branch in branches])
            total = total + keras.ops.sum(keras.ops.cast(given, "float32") * seconds)
        return total


def _seconds(branch: Any) -> Tensor:
    if isinstance(branch, Answer):
        return np.float32(branch.latency_s)
    if hasattr(branch, "get_cost"):
        return branch.get_cost()
    return np.float32(branch)
