"""descry: detection of things that are hard to see."""

__version__ = "0.1.0"
