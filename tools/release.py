"""Build a release: wheel, checksums, what it depends on (SBOM, licences).

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

from pipeline import __version__
from pipeline.atomic import replacing, write_csv, write_json

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
COLUMNS = ("package", "version", "licence", "asked for by")
# Whose metadata say nothing; looked up by hand.
BY_HAND = {"cuda-toolkit": "NVIDIA CUDA Toolkit End User License Agreement"}
OURS = ("dev", "docs")  # extras that users do without
# Strong copyleft that an installation brings all the same, and why that may be.
ACCEPTED = {
    "dulwich": "Apache-2.0 at the user's choice",
    "grandalf": "EPL-1.0 at the user's choice; DVC draws its graphs with it",
    "pygit2": "GPL-2.0 with an exception for linking",
}
_COPYLEFT = re.compile(r"GPL|General Public|SSPL|BUSL", re.IGNORECASE)
_LESSER = re.compile(r"LGPL|Lesser", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_KNOWN = re.compile(r"License :: (?:OSI Approved :: )?(.+)")


def licences() -> list[tuple[str, str, str, str]]:
    """Everything that an installation with all extras for users brings, by name.

    Raises
    ------
    SystemExit
        When a dependency is not installed here, or does not say its licence, or one of a strong
        copyleft that is not in `ACCEPTED`.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = list(project["dependencies"])
    for extra, requirements in project["optional-dependencies"].items():
        wanted += requirements if extra not in OURS else []
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
    strict = [f"{row[0]} ({row[2]}, of {row[3]})" for row in found.values() if is_refused(row)]
    if strict:
        sys.exit(f"strong copyleft: {', '.join(strict)}: hold an earlier version, or do without")
    return sorted(found.values())


def is_refused(row: tuple[str, str, str, str]) -> bool:
    """Whether a dependency's licence would bind whoever builds on us."""
    name, _, text, _ = row
    return bool(_COPYLEFT.search(text) and not _LESSER.search(text)) and name not in ACCEPTED


def bill_of_materials(rows: list[tuple[str, str, str, str]]) -> dict[str, object]:
    """The same as CycloneDX 1.6 has it."""
    components = [
        {
            "type": "library",
            "bom-ref": f"pkg:pypi/{name}@{version}",
            "purl": f"pkg:pypi/{name}@{version}",
            "name": name,
            "version": version,
            "licenses": [{"license": {"name": text}}],
        }
        for name, version, text, _ in rows
    ]
    ours = {"type": "application", "bom-ref": "descry", "name": "descry", "version": __version__}
    place = {name: part["bom-ref"] for (name, *_), part in zip(rows, components, strict=True)}
    needed: dict[str, list[object]] = {}
    for name, _, _, asker in rows:
        needed.setdefault(str(place.get(asker, "descry")), []).append(place[name])
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": ours},
        "components": components,
        "dependencies": [{"ref": ref, "dependsOn": on} for ref, on in sorted(needed.items())],
    }


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
    """Build the wheel; yield it and the lists of what it needs."""
    stamp = subprocess.run(
        ["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir"]
    shutil.rmtree(ROOT / "build", ignore_errors=True)  # what an earlier build left would join in
    env = os.environ | {"SOURCE_DATE_EPOCH": stamp}
    subprocess.run([*command, str(DIST), str(ROOT)], check=True, env=env)
    yield from DIST.glob("*.whl")
    rows = licences()
    write_csv(DIST / "LICENCES.csv", COLUMNS, rows)
    write_json(DIST / "SBOM.cdx.json", bill_of_materials(rows))
    yield from (DIST / "LICENCES.csv", DIST / "SBOM.cdx.json")


def main() -> None:
    """Write ``dist/`` anew."""
    shutil.rmtree(DIST, ignore_errors=True)
    files = list(build())
    with replacing(DIST / "SHA256SUMS") as stream:
        for path in files:
            stream.write(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n")


if __name__ == "__main__":
    main()
