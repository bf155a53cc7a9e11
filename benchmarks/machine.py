"""What every result of a benchmark says of where it was measured."""

import platform
from typing import Any

from pipeline.profile.table import cpu_model
from pipeline.work.pool import cores


def machine() -> dict[str, Any]:
    """Kind of machine, without its name."""
    return {"processor": cpu_model(), "cores": cores(), "system": platform.system()}
