"""Write the reference pages that come from the code: parameters, command line, formats.

python docs/generate.py           # after a change of params.yaml, options or tables
python docs/generate.py --check   # exit code 1 where a page is not what the code says
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import typer
from ruamel.yaml import YAML

import pipeline.cli
from pipeline.atomic import replacing
from pipeline.config import allowed
from pipeline.convert.registry import SHAPES, built_in

HERE = Path(__file__).parent
ROOT = HERE.parent
HEAD = "<!-- Written by docs/generate.py; do not edit. -->\n"


def params_page() -> str:
    """Every key of params.yaml: value, what is allowed, what it does."""
    tree = YAML().load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    lines = [
        HEAD,
        "# Parameters\n",
        "`params.yaml` is the only configuration; these are its keys and the values that stand "
        "there. `descry train NAME -S KEY=VALUE` and `dvc exp run -S KEY=VALUE` change one.\n",
    ]
    values = [(key, tree[key], comment(tree, key)) for key in tree if not is_group(tree[key])]
    lines += [*parameter_table(values), ""]
    for key in tree:
        if is_group(tree[key]):
            lines += [f"## {key}\n", *remark(tree, key), *parameter_table(leaves(tree[key], key))]
            lines += [""]
    return "\n".join(lines)


def is_group(value: Any) -> bool:
    """Whether a value of params.yaml has keys of its own."""
    return isinstance(value, dict)


def leaves(group: Any, above: str) -> Iterator[tuple[str, Any, str]]:
    """All values below a group: full key, value, comment."""
    for key, value in group.items():
        if is_group(value):
            yield from leaves(value, f"{above}.{key}")
        else:
            yield f"{above}.{key}", value, comment(group, key)


def comment(group: Any, key: str) -> str:
    """What stands behind a key in the file."""
    for token in group.ca.items.get(key, ()):
        for one in token if isinstance(token, list) else [token]:
            text = one.value.split("\n")[0].strip() if one else ""
            if text.startswith("#"):
                return text.lstrip("# ")
    return ""


def remark(tree: Any, key: str) -> list[str]:
    """The comment of a group as a paragraph."""
    text = comment(tree, key)
    return [text[0].upper() + text[1:] + ".\n"] if text else []


def parameter_table(rows: Iterable[tuple[str, Any, str]]) -> list[str]:
    """Lines of a table of parameters."""
    cells = [(f"`{key}`", shown(value), allowed(key), text) for key, value, text in rows]
    return table(("key", "value", "allowed", ""), cells)


def shown(value: Any) -> str:
    """A value as YAML has it."""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, list):
        return "`[" + ", ".join(map(str, value)) + "]`"
    return "`''`" if value == "" else f"`{value}`"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    body = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return ["| " + " | ".join(header) + " |", "|---" * len(header) + "|", *body]


def cli_page() -> str:
    """Every command with its arguments and options, and the exit codes."""
    group = typer.main.get_command(pipeline.cli.app)
    context = type(group).context_class(group, info_name="descry")
    codes = (pipeline.cli.__doc__ or "").split("\n\n", 1)[1].replace("\n", " ").strip()
    lines = [HEAD, "# Command line\n", f"{codes}\n"]
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        inner = type(group).context_class(command, info_name=name, parent=context)
        usage = command.get_usage(inner).removeprefix("Usage: ")
        lines += [f"## {name}\n", f"{command.help}\n", f"```text\n{usage}\n```\n"]
        records = [parameter.get_help_record(inner) for parameter in command.get_params(inner)]
        kept = [record for record in records if record and "--help" not in record[0]]
        lines += table(("", ""), [(f"`{names}`", text) for names, text in kept])
        lines += [""]
    return "\n".join(lines)


def formats_page() -> str:
    """What is read and written: datasets, layouts, files and their columns."""
    from pipeline.browse.review import COLUMNS, VERDICTS
    from pipeline.data.augment import RECIPES
    from pipeline.data.images import EXTENSIONS
    from pipeline.dicom import EXTENSIONS as DICOM
    from pipeline.evaluate.error_kinds import KINDS

    datasets = [
        (f"`{name}`", one.augment or "", ", ".join(one.modality) or "none", one.download)
        for name, one in built_in().items()
    ]
    lines = [HEAD, "# Formats\n", "## Datasets that are built in\n"]
    lines += table(("name", "augmentation", "DICOM modalities", "how to get it"), datasets)
    lines += ["", "## Layouts of a dataset of your own\n", f"{SHAPES}.\n"]
    faults = "conversion.md#kinds-of-fault-in-what-is-exported-before-and-now"
    lines += [f"[What each reader makes of what others export, with its tests]({faults}).\n"]
    lines += ["## Pictures\n", f"Ordinary images: {words(sorted(EXTENSIONS))}. DICOM by content; "]
    lines += [f"in conversion by name: {words(sorted(DICOM))}.\n", "## Augmentation recipes\n"]
    lines += [f"{words(RECIPES)}; [what each does](../explanation/data.md).\n"]
    lines += ["## Kinds of mistake\n", f"{words(KINDS)}; after TIDE (arXiv 2008.08115).\n"]
    lines += ["## review.csv of `descry browse`\n", f"Columns: {words(COLUMNS)}.\n"]
    lines += [f"Verdicts: {words(VERDICTS)}.\n"]
    return "\n".join(lines)


def words(names: Iterable[str]) -> str:
    """Names as code, with commas."""
    return ", ".join(f"`{name}`" for name in names)


PAGES: dict[str, Callable[[], str]] = {
    "params.md": params_page,
    "cli.md": cli_page,
    "formats.md": formats_page,
}


def main() -> None:
    """Write the pages, or compare them."""
    stale = []
    for name, make in PAGES.items():
        path, text = HERE / "reference" / name, make()
        if "--check" not in sys.argv:
            with replacing(path) as stream:
                stream.write(text)
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
    if stale:
        sys.exit(f"not what the code says: {', '.join(stale)}; run: python docs/generate.py")


if __name__ == "__main__":
    main()
