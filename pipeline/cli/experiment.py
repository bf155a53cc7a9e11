"""What stands between a mistake in ``-S`` and DVC: the commands `check` and `exp`.

DVC writes the values of ``dvc exp run -S`` into params.yaml before anything of ours can look at
them. `check`, the first stage of dvc.yaml, puts back what is refused; `exp` looks before DVC does.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from pipeline.errors import DescryError

PARAMS = Path("params.yaml")
ONE = ("-S", "--set-param")  # as DVC spells it; -S VALUE, -SVALUE, --set-param=VALUE


def check(
    mark: Annotated[
        Path | None, typer.Option(help="Written when all is well: what dvc.yaml waits for.")
    ] = None,
) -> None:
    """Check params.yaml; what a refused `dvc exp run -S` has written there is put back."""
    from pipeline.atomic import replacing
    from pipeline.config import load_params

    try:
        load_params(PARAMS)
    except DescryError as error:
        undone = put_back(PARAMS)
        raise DescryError(f"{error}\n{undone}" if undone else str(error)) from None
    if mark is not None:
        with replacing(mark) as stream:
            stream.write("params.yaml is valid\n")


def exp(context: typer.Context) -> None:
    """`dvc exp` with the same options, but a wrong -S is refused before DVC writes anything."""
    from pipeline.config import load_params

    changes = [change.removeprefix(f"{PARAMS}:") for change in set_params(context.args)]
    load_params(PARAMS, [text for text in changes if not _is_sweep(text, context.args)])
    command = [sys.executable, "-m", "dvc", "exp", *context.args]
    raise typer.Exit(subprocess.run(command).returncode)


def set_params(arguments: Sequence[str]) -> Iterator[str]:
    """The values of all ``-S`` of a command line."""
    waiting = iter(arguments)
    for word in waiting:
        if word in ONE:
            yield next(waiting, "")
        elif word.startswith("--set-param="):
            yield word.partition("=")[2]
        elif word.startswith("-S"):
            yield word[2:]


def _is_sweep(text: str, arguments: Sequence[str]) -> bool:
    """Whether a value stands for several experiments, as ``1,2,3`` and ``range(1,4)`` do."""
    value = text.partition("=")[2]
    several = "," in value and not value.startswith(("[", "{", "'", '"'))
    return "--queue" in arguments and (several or value.startswith(("range(", "choice(", "glob(")))


def put_back(path: Path) -> str:
    """Undo what ``dvc exp run -S`` wrote into the parameters of the checkout; say what.

    Nothing where it was not DVC that wrote, and nothing in the copies that it makes for its queue.
    """
    if "DVC_EXP_NAME" not in os.environ or Path(os.environ["DVC_ROOT"]) != Path.cwd():
        return ""
    keys = [change.removeprefix(f"{path}:").lstrip("+~").partition("=")[0] for change in _of_dvc()]
    git = ["git", "show", f"HEAD:./{path}"]
    shown = subprocess.run(git, capture_output=True, text=True, encoding="utf-8")
    if not keys or shown.returncode:
        return ""
    old, now = yaml.safe_load(shown.stdout), yaml.safe_load(path.read_text(encoding="utf-8"))
    _restore(now, old, keys)
    if now == old:  # comments and all
        path.write_text(shown.stdout, encoding="utf-8")
    else:  # something else was changed by hand, and stays
        from dvc.utils.serialize import modify_yaml

        with modify_yaml(path) as tree:
            _restore(tree, old, keys)
    subprocess.run(["git", "reset", "-q", "--", str(path)])  # DVC has staged it
    return f"{path} is as it was before -S: {', '.join(keys)}"


def _restore(tree: dict[str, Any], old: dict[str, Any], keys: Sequence[str]) -> None:
    """Give keys with dots the values that they have in another tree."""
    for key in keys:
        *parents, last = key.split(".")
        here, there = tree, old
        for parent in parents:
            here, there = here.setdefault(parent, {}), there.get(parent, {})
        if last in there:
            here[last] = there[last]
        else:
            here.pop(last, None)


def _of_dvc() -> list[str]:
    """The ``-S`` of the DVC that runs this command: it hands them to nobody but itself."""
    import psutil  # type: ignore[import-untyped]  # DVC needs it, so it is there

    for process in psutil.Process().parents():
        words = process.cmdline()
        if {"exp", "run"} <= set(words):
            return list(set_params(words))
    return []
