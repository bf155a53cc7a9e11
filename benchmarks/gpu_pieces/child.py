"""The process of one unit: a request in, an answer out, both JSON files."""

import importlib
import json
import logging
import os
import signal
import threading
from pathlib import Path
from typing import Any

from gpu_pieces.missing import NotHere
from pipeline.atomic import write_json

# kind -> (module, function); imported when asked for, since each needs other packages
KINDS = {
    "probe": ("probe", "run"),
    "bits": ("bits", "run"),
    "throughput": ("throughput", "run"),
    "gains": ("gains", "run"),
    "rate": ("rate", "run"),
    "memory": ("memory", "run"),
    "training": ("study", "twice"),
    "study": ("study", "run"),
    "convert": ("study", "convert"),
}


def answer(kind: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Do a unit: {"status": "done", "result": ...}, or "skipped" or "failed" with a reason.

    Whatever goes wrong is the unit's result and must not touch the others, so all is caught.
    """
    module, function = KINDS[kind]
    try:
        work = getattr(importlib.import_module(f"gpu_pieces.{module}"), function)
        return {"status": "done", "result": work(**parameters)}
    except ModuleNotFoundError as error:
        return {"status": "skipped", "reason": f"the package {error.name} is not installed"}
    except NotHere as reason:
        return {"status": "skipped", "reason": str(reason)}
    except Exception as error:
        logging.getLogger(__name__).exception("unit %s failed", kind)
        return {"status": "failed", "reason": f"{type(error).__name__}: {str(error)[:1000]}"}


def main(request: Path, reply: Path) -> None:
    """Read the request, do it, write the answer."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.basicConfig(level=logging.WARNING)
    asked = json.loads(request.read_text(encoding="utf-8"))
    write_json(reply, answer(asked["kind"], asked["parameters"]))


def _end_with_parent() -> None:
    """End this process's group once the pipe from its parent breaks, however the parent ended.

    Else a unit whose parent was killed would go on and hold the device.
    """
    os.read(0, 1)
    os.killpg(os.getpgrp(), signal.SIGKILL)
