"""descry: detection of things that are hard to see."""

__version__ = "0.1.0"

from pipeline.api import Model, Prediction, Predictions, build_backbone, enhance, load

__all__ = [
    "Model",
    "Prediction",
    "Predictions",
    "__version__",
    "build_backbone",
    "enhance",
    "load",
]
