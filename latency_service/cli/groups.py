"""`latency-service groups`: which channels of a network live and die together."""

from __future__ import annotations

from typing import Annotated

import orjson
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from latency_service.cli import options as shared
from latency_service.core.answer import MemberRow
from latency_service.usecases import coefficients


def groups(
    path: shared.Model,
    shape: shared.Shapes = None,
    dim: shared.Dims = None,
    force_group: shared.ForceGroup = None,
    exclude: shared.Exclude = None,
    freeze_outputs: shared.FreezeOutputs = True,
    unknown_ops: shared.UnknownOps = "refuse",
    as_json: Annotated[bool, typer.Option("--json", help="Print them as the API does.")] = False,
) -> None:
    """List the channel groups of a network: size, whether prunable, and where they sit.

    [bold]latency-service groups model.onnx[/]
    """
    chosen = shared.options(
        shape, dim, force_group=force_group, exclude=exclude, freeze_outputs=freeze_outputs,
        unknown_ops=unknown_ops,
    )  # fmt: skip
    with shared.workbench() as bench:
        # groups are the same on every device; the answer needs some device
        answer = coefficients(bench, chosen.request("cpu-generic", shared.read_model(path)))
    if as_json:
        shared.write_bytes(orjson.dumps(answer["groups"]) + b"\n", None)
        return
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=200)
    table = Table("group", "channels", "prunable", "members")
    for group in answer["groups"]:
        members = group["members"]
        shown = ", ".join(_member(member) for member in members[:6])
        if len(members) > 6:
            shown += f", and {len(members) - 6} more"
        table.add_row(
            group["id"], str(group["size"]), "yes" if group["prunable"] else "no", escape(shown)
        )
    console.print(table)


def _member(member: MemberRow) -> str:
    return f"{member['layer']} {member['role']}[{member['axis']}]"
