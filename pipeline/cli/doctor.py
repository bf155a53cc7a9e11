"""The `doctor` command: one screen that says whether this machine is fit for use."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pipeline.doctor import Check

MARKS = {"ok": "[green]✓[/]", "note": "[yellow]•[/]", "problem": "[bold red]✗[/]"}


def doctor(
    checkpoint: Annotated[Path | None, typer.Option(help="A model.safetensors to try.")] = None,
    out: Annotated[
        Path, typer.Option("-o", "--out", help="Where results will go: how full is its disk?")
    ] = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Check decoders, device, versions, checkpoint and disk. Exit code 1: something is missing."""
    from pipeline.doctor import PROBLEM, examine

    checks = examine(checkpoint, out)
    problems = [check for check in checks if check.status == PROBLEM]
    if as_json:
        report = {"ok": not problems, "checks": [asdict(check) for check in checks]}
        typer.echo(json.dumps(report, indent=1))
    else:
        _show(checks, len(problems))
    raise typer.Exit(1 if problems else 0)


def _show(checks: list["Check"], problems: int) -> None:
    from rich.console import Console, Group
    from rich.panel import Panel

    sections = list(dict.fromkeys(check.section for check in checks))
    parts = [part for section in sections for part in _section(section, checks)]
    verdict = (
        f"[bold red]{problems} needed {'thing is' if problems == 1 else 'things are'} missing[/]"
        if problems
        else "[green]fit for use[/]"
    )
    console = Console(highlight=False)
    console.print(Panel(Group(*parts), title="descry doctor", subtitle=verdict, padding=(0, 1)))


def _section(name: str, checks: list["Check"]) -> Iterator["RenderableType"]:
    """Lines with a text each; short ones (decoders, versions) in columns, if all is well."""
    from rich.columns import Columns
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    ours = [check for check in checks if check.section == name]
    yield Text(name, style="bold")
    if name in ("decoders", "versions"):
        good = [check for check in ours if check.status == "ok"]
        short = [
            f"{MARKS['ok']} {escape(check.name)}"
            + (f" [dim]{escape(check.text)}[/]" if name == "versions" else "")
            for check in good
        ]
        yield Columns(short, padding=(0, 2), expand=False)
        ours = [check for check in ours if check.status != "ok"]
    if ours:
        table = Table.grid(padding=(0, 1))
        for check in ours:
            table.add_row(MARKS[check.status], escape(check.name), escape(check.text))
        yield table
