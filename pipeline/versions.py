"""Versions of installed packages, for whatever says what it was made with."""

import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

import pipeline


def version_of(package: str) -> str:
    """Version of an installed distribution, "absent" where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Name -> version of Python, of this package and of the named ones, in that order."""
    found = {"python": platform.python_version(), "descry": pipeline.__version__}
    return found | {package: version_of(package) for package in packages}
