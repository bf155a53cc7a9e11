"""What every result of a benchmark says of where it was measured."""

import platform
from typing import Any

from pipeline.convert.engine.pool import cores
from pipeline.profile.machine import cpu_model


def machine() -> dict[str, Any]:
    """Kind of machine, without its name."""
    return {"processor": cpu_model(), "cores": cores(), "system": platform.system()}
