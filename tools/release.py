"""Build a release: wheel, checksums, licences of what it depends on.

``python tools/release.py`` (or ``make release``) writes them into ``dist/``. The wheel's times are
those of the commit, so that the same commit gives the same bytes.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from pipeline.atomic import replacing, write_csv

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
COLUMNS = ("package", "version", "licence", "asked for by")
# Whose metadata say nothing; looked up by hand.
BY_HAND = {"cuda-toolkit": "NVIDIA CUDA Toolkit End User License Agreement"}
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_KNOWN = re.compile(r"License :: (?:OSI Approved :: )?(.+)")


def licences(extras: tuple[str, ...] = ("archive",)) -> list[tuple[str, str, str, str]]:
    """Everything that an installation with these extras brings, by name.

    Raises
    ------
    SystemExit
        When a dependency is not installed here, or does not say its licence.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = list(project["dependencies"])
    for extra in extras:
        wanted += project["optional-dependencies"].get(extra, [])
    found: dict[str, tuple[str, str, str, str]] = {}
    waiting = [(requirement, "descry") for requirement in wanted]
    while waiting:
        requirement, asker = waiting.pop()
        name = normal(_NAME.match(requirement)[0])  # type: ignore[index]
        if name in found or not applies(requirement):
            continue
        try:
            package = distribution(name)
        except PackageNotFoundError:
            sys.exit(f"{requirement} (of {asker}): not installed here; run make install first")
        found[name] = (name, package.version, licence(package) or BY_HAND.get(name, ""), asker)
        waiting += [(inner, name) for inner in package.requires or ()]
    unknown = [row[0] for row in found.values() if not row[2]]
    if unknown:
        sys.exit(f"no licence in the metadata of {', '.join(unknown)}: look it up, then decide")
    return sorted(found.values())


def normal(name: str) -> str:
    """A project's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def applies(requirement: str) -> bool:
    """Whether a requirement is for this machine, without any extra."""
    from packaging.requirements import Requirement

    marker = Requirement(requirement).marker
    return marker is None or marker.evaluate({"extra": ""})


def licence(package: Distribution) -> str:
    """What the metadata say: an SPDX expression, else the classifiers, else the first line."""
    about = package.metadata
    classifiers = [_KNOWN.fullmatch(text) for text in about.get_all("Classifier", [])]
    names = sorted({match[1] for match in classifiers if match})
    first = _field(package, "License").strip().split("\n")[0]
    return _field(package, "License-Expression") or ", ".join(names) or first


def _field(package: Distribution, name: str) -> str:
    """A field of the metadata that may be missing."""
    values = package.metadata.get_all(name, [])
    return str(values[0]) if values else ""


def build() -> Iterator[Path]:
    """Build the wheel; yield it and the list of licences."""
    stamp = subprocess.run(
        ["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir"]
    shutil.rmtree(ROOT / "build", ignore_errors=True)  # what an earlier build left would join in
    env = os.environ | {"SOURCE_DATE_EPOCH": stamp}
    subprocess.run([*command, str(DIST), str(ROOT)], check=True, env=env)
    yield from DIST.glob("*.whl")
    write_csv(DIST / "LICENCES.csv", COLUMNS, licences())
    yield DIST / "LICENCES.csv"


def main() -> None:
    """Write ``dist/`` anew."""
    shutil.rmtree(DIST, ignore_errors=True)
    files = list(build())
    with replacing(DIST / "SHA256SUMS") as stream:
        for path in files:
            stream.write(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n")


if __name__ == "__main__":
    main()
