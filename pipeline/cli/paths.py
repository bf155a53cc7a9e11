"""Paths of a command line, looked at before anything heavy is imported."""

from pathlib import Path

from pipeline.errors import DescryError

CHECKPOINT = "checkpoint; `descry train NAME` writes one, runs/NAME/train/model.safetensors"


def there(*paths: Path | None, what: str = "file or folder") -> None:
    """Refuse a path that is given and not there.

    Raises
    ------
    DescryError
    """
    for path in paths:
        if path is not None and not path.exists():
            raise DescryError(f"{path}: no such {what}")
