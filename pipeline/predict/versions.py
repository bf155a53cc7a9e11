"""Versions of what a result depends on, for run.json."""

from pipeline import versions as installed

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
    return installed.versions(_PACKAGES)
