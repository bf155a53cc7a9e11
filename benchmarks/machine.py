"""What every result of a benchmark says of where it was measured: kind of machine, versions."""

import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pipeline
from pipeline.convert.engine.pool import cores


def machine() -> dict[str, Any]:
    """Kind of machine, without its name."""
    info = Path("/proc/cpuinfo")
    models = info.read_text().splitlines() if info.exists() else []
    model = next(
        (line.split(":")[1].strip() for line in models if line.startswith("model name")), ""
    )
    return {"processor": model or platform.machine(), "cores": cores(), "system": platform.system()}


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of Python, of this package and of the named ones; "absent" where not installed."""
    found = {"python": platform.python_version(), "descry": pipeline.__version__}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found
