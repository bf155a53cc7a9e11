"""What every result of a benchmark says of where it was measured: kind of machine, versions."""

import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pipeline
from pipeline.convert.engine.pool import cores
from pipeline.profile.machine import cpu_model


def machine() -> dict[str, Any]:
    """Kind of machine, without its name."""
    return {"processor": cpu_model(), "cores": cores(), "system": platform.system()}


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of Python, of this package and of the named ones; "absent" where not installed."""
    found = {"python": platform.python_version(), "descry": pipeline.__version__}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found
