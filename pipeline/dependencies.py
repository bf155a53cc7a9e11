"""The code that decides over a result: which of our modules a module imports, however deep.

Said nowhere by hand: it is read from the import statements, those inside functions included. The
identity of a training run, hence what it may go on from, is a digest of it, and dvc.yaml lists it
for every stage; ``python -m pipeline.dependencies`` brings those lists up to date.
"""

import ast
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent  # the package, wherever it is installed
# Of dvc.yaml, and where each begins. Conversion opens its readers by name, so all of it counts;
# elsewhere what a dataset says of itself does not: its values stand in params.yaml.
STAGES = {
    "check": ("pipeline.config",),
    "convert": ("pipeline.stages.convert", "pipeline.convert.*"),
    "pretrain": ("pipeline.stages.pretrain",),
    "train": ("pipeline.stages.train",),
    "evaluate": ("pipeline.stages.evaluate",),
    "predict": ("pipeline.stages.predict",),
    "page": ("pipeline.stages.report",),
    "report": ("pipeline.stages.report",),
}


def imported_by(*modules: str) -> frozenset[str]:
    """Modules of ours and all that they import, with the packages that they lie in.

    ``package.*`` stands for all modules of a package. What only the type checker imports does not
    count; of a package that something merely lies in, nor does what its functions import.
    ``pipeline/__init__.py``, the way in for users of the package, is no part of any stage.
    """
    found: set[str] = set()
    lain_in: set[str] = set()
    waiting = [name for module in modules for name in _named(module)]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        waiting += _imports(name)
        package = name.rpartition(".")[0]
        while package not in ("", ROOT.name, *lain_in):
            lain_in.add(package)
            waiting += _imports(package, inside=False)
            package = package.rpartition(".")[0]
    return frozenset(found | lain_in)


def _named(module: str) -> list[str]:
    """A module, or all modules of a package."""
    if not module.endswith(".*"):
        return [module]
    paths = file_of(module[:-2]).parent.rglob("*.py")
    names = (path.relative_to(ROOT.parent).with_suffix("").parts for path in paths)
    return [".".join(parts).removesuffix(".__init__") for parts in names]


def code_digest(*modules: str) -> str:
    """SHA-256 over what modules and all that they import do: not comments, not docstrings.

    So an interrupted run goes on after an edit of words, and not after one of code.
    """
    whole = hashlib.sha256()
    for name in sorted(imported_by(*modules)):
        tree = _parsed(name)
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                node.body = [part for part in node.body if not _is_text(part)]
        whole.update(name.encode() + b"\0" + ast.dump(tree).encode())
    return whole.hexdigest()


def listed(stage: str) -> list[str]:
    """What dvc.yaml has to list for a stage: a folder where more than half of it is needed."""
    needed = {file_of(name) for name in imported_by(*STAGES[stage])}
    return sorted(path.relative_to(ROOT.parent).as_posix() for path in _gathered(ROOT, needed))


def file_of(module: str) -> Path:
    """Where the code of a module or package of ours stands."""
    path = ROOT.parent.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _gathered(folder: Path, needed: set[Path]) -> Iterator[Path]:
    """Files that are needed, or folders of them."""
    yield from (path for path in folder.glob("*.py") if path in needed)
    for inner in folder.iterdir():
        modules = set(inner.rglob("*.py"))
        if 2 * len(modules & needed) > len(modules):
            yield inner
        elif inner.is_dir():
            yield from _gathered(inner, needed)


def _imports(module: str, inside: bool = True) -> Iterator[str]:
    """What a module imports, `inside` its functions too."""
    for node in _statements(_parsed(module), inside):
        for alias in node.names:
            if isinstance(node, ast.Import):
                names = [alias.name]
            else:  # what is imported from a package may be a module of it
                names = [f"{node.module}.{alias.name}", str(node.module)]
            yield from [name for name in names if _is_ours(name)][:1]


def _is_ours(name: str) -> bool:
    return name.startswith(f"{ROOT.name}.") and file_of(name).is_file()


def _statements(node: ast.AST, inside: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """The import statements below a node."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield node
    elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    elif inside or not isinstance(node, ast.FunctionDef):
        for part in ast.iter_child_nodes(node):
            yield from _statements(part, inside)


def _parsed(module: str) -> ast.Module:
    return ast.parse(file_of(module).read_text(encoding="utf-8"))


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def rewritten(text: str) -> str:
    """dvc.yaml with the code that each stage needs in its list of dependencies."""
    stage = ""
    kept: list[str] = []
    for line in text.splitlines():
        stage = line.strip(" :") if re.fullmatch(r"  \w+:", line) else stage
        if not line.startswith("      - pipeline/"):
            if kept and line.startswith("    ") and not line.startswith("      "):
                kept += _lines_due(stage, kept)
            kept.append(line)
    return "\n".join(kept) + "\n"


def _lines_due(stage: str, before: list[str]) -> list[str]:
    """The list of code, where the lines before end a list of dependencies."""
    heads = [line for line in before if re.fullmatch(r"    \w+:", line)]
    due = stage in STAGES and heads[-1:] == ["    deps:"]
    return [f"      - {path}" for path in listed(stage)] if due else []


if __name__ == "__main__":
    file = Path("dvc.yaml")
    file.write_text(rewritten(file.read_text(encoding="utf-8")), encoding="utf-8")
