"""Versions of what a result depends on, for run.json."""

import platform
from importlib.metadata import PackageNotFoundError, version

import pipeline

_PACKAGES = (
    "numpy",
    "pillow",
    "pydicom",
    "pyjpegls",
    "pylibjpeg",
    "pylibjpeg-openjpeg",
    "pylibjpeg-rle",
    "python-gdcm",
    "torch",
    "torchvision",
)


def versions() -> dict[str, str]:
    """Return name -> version of Python, of this package and of what decodes and computes."""
    found = {"python": platform.python_version(), "descry": pipeline.__version__}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found
