"""What is asked of the service: the coefficients of a network on a device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from latency_client.errors import StaleAnswerError
from latency_client.graph import LayerGraph, digest_of
from latency_client.wire import Answer

# Options of POST /v1/coefficients, spelled as there.
OPTIONS = (
    "batch_size",
    "dtype",
    "math",
    "runtime",
    "revision",
    "model",
    "fusion",
    "alive",
    "force_group",
    "exclude",
    "freeze_outputs",
    "unknown_ops",
)


@dataclass(frozen=True)
class Request:
    """A network, a device by name, and the options that an answer depends on.

    Attributes:
        options: by the names of `OPTIONS`; those left out have the service's defaults.
    """

    graph: LayerGraph
    device: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """The request's body."""
        return {"device": self.device, "graph": self.graph.document(), **self.options}

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that the answer depends on, whichever service gives it."""
        return digest_of(
            {"device": self.device, "graph": self.graph.digest, "options": dict(self.options)}
        )

    def with_options(self, **options: Any) -> Request:
        """The same with other options; None takes an option away."""
        merged = {**self.options, **options}
        return replace(self, options={k: v for k, v in merged.items() if v is not None})

    def check(self, answer: Answer, source: str) -> Answer:
        """The answer, if it is one to this request.

        Raises:
            StaleAnswerError: naming the first layer or group that differs.
        """
        ours = {layer.name: layer.op for layer in self.graph.layers}
        theirs = {layer.name: layer.op for layer in answer.layers}
        if ours != theirs:
            different = [n for n in (*ours, *theirs) if ours.get(n) != theirs.get(n)]
            name = different[0]
            raise StaleAnswerError(
                f"{source} was written for another network: layer {name!r} is "
                f"{ours.get(name, 'missing')} in the model and {theirs.get(name, 'missing')} in "
                f"the answer ({len(different)} layers differ). The model's code has changed; fetch "
                "the coefficients again"
            )
        self._check_members(answer, source)
        wanted = {answer.device.requested.lower(), answer.device.name.lower()}
        if self.device.lower() not in wanted:
            raise StaleAnswerError(
                f"{source} is about device {answer.device.name!r} (asked for as "
                f"{answer.device.requested!r}), not about {self.device!r}"
            )
        batch = self.options.get("batch_size")
        if batch is not None and batch != answer.batch_size:
            raise StaleAnswerError(
                f"{source} is for batch size {answer.batch_size}; {batch} was asked for"
            )
        return answer

    def _check_members(self, answer: Answer, source: str) -> None:
        by_name = self.graph.by_name
        for group in answer.groups:
            for member in group.members:
                layer = by_name.get(member.layer)
                # a parameter that is implied has no shape of its own to compare with
                shapes = [p.shape for p in (layer.parameters if layer else None) or ()
                          if p.role == member.role]  # fmt: skip
                if not shapes or group.size == 0:
                    continue
                last = int(member.positions(group.size).max())
                if all(member.axis >= len(s) or last >= s[member.axis] for s in shapes):
                    raise StaleAnswerError(
                        f"{source} was written for another network: group {group.id!r} reaches "
                        f"position {last} on axis {member.axis} of the {member.role} of layer "
                        f"{member.layer!r}, which has shape {list(shapes[0])} in the model. Fetch "
                        "the coefficients again"
                    )
