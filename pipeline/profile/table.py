"""A profile for people: a Markdown table, each cell with its ratio to the baseline, and on what."""

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# heading, path in a row, divisor, decimals
COLUMNS: tuple[tuple[str, tuple[str, str], float, int], ...] = (
    ("params M", ("parameters", "total"), 1e6, 3),
    ("backbone M", ("parameters", "backbone"), 1e6, 3),
    ("interaction M", ("parameters", "interaction"), 1e6, 3),
    ("GFLOPs", ("flops", "inference"), 1e9, 3),
    ("train GFLOPs", ("flops", "training"), 1e9, 3),
    ("detect ms", ("inference", "median_ms"), 1.0, 1),
    ("img/s", ("inference", "images_per_s"), 1.0, 2),
    ("detect MiB", ("inference", "peak_bytes"), 2**20, 0),
    ("train ms", ("training", "median_ms"), 1.0, 1),
    ("train img/s", ("training", "images_per_s"), 1.0, 2),
    ("train MiB", ("training", "peak_bytes"), 2**20, 0),
)
KEYS = ("backbone", "size", "image_size")


def markdown(report: Mapping[str, Any]) -> str:
    """The table of a report of `profile`, with what it was measured on."""
    rows = report["rows"]
    columns = [column for column in COLUMNS if any(_value(row, column[1]) for row in rows)]
    lines = [["backbone", "size", "px", "arm", *(heading for heading, *_ in columns)]]
    for row in rows:
        plain = baseline_of(row, rows)
        cells = [_cell(row, plain, *column[1:]) for column in columns]
        lines.append([row["backbone"], row["size"], str(row["image_size"]), row["arm"], *cells])
    return "\n".join([*_align(lines), "", *_notes(report)])


def baseline_of(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The row of the same backbone, size and image size without interaction."""
    return next(
        other
        for other in rows
        if other["arm"] == "baseline" and all(other[key] == row[key] for key in KEYS)
    )


def _value(row: Mapping[str, Any], path: tuple[str, str]) -> Any:
    return (row.get(path[0]) or {}).get(path[1])


def _cell(
    row: Mapping[str, Any],
    plain: Mapping[str, Any],
    path: tuple[str, str],
    divisor: float,
    decimals: int,
) -> str:
    value, base = _value(row, path), _value(plain, path)
    if value is None:
        return "n/a"
    text = f"{value / divisor:.{decimals}f}"
    return f"{text} (×{value / base:.2f})" if base and row is not plain else text


def _align(lines: Sequence[Sequence[str]]) -> list[str]:
    """Markdown that also reads well on a console."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * width for width in widths]
    return [
        "| " + " | ".join(f"{cell:<{w}}" for cell, w in zip(line, widths, strict=True)) + " |"
        for line in (lines[0], rule, *lines[1:])
    ]


def _notes(report: Mapping[str, Any]) -> list[str]:
    machine, settings = report["machine"], report["settings"]
    where = machine.get("gpu") or f"{machine['cpu']}, {machine['threads']} thread(s)"
    lines = [
        f"FLOPs of one image, 2 per multiply-add; not counted: {'; '.join(report['not_counted'])}."
    ]
    if settings["repeats"]:
        lines.append(
            f"Times: median of {settings['repeats']} steps after {settings['warmup']} to warm up, "
            f"batch {settings['batch_size']}, {settings['precision']}, on {where}, torch "
            f"{machine['torch']}. Random weights and images."
        )
    if settings["memory"]:
        lines.append("Memory: growth to the peak during a step, in a process of its own.")
    return lines


_CPUINFO = Path("/proc/cpuinfo")


def machine(device: str) -> dict[str, Any]:
    """Processor, cores, threads, accelerator and versions, as JSON values."""
    import torch  # here, because the processor's name is asked for where torch must not be
    import torchvision

    about: dict[str, Any] = {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": str(torchvision.__version__),
        "device": device,
    }
    if device == "cuda":
        about["gpu"] = torch.cuda.get_device_name()
        about["cuda"] = torch.version.cuda
    return about


def cpu_model() -> str:
    """The processor's model, as the system names it, or its architecture."""
    if _CPUINFO.exists():
        for line in _CPUINFO.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
