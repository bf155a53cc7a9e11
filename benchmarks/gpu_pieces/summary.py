"""All units' results in one value and one table."""

import statistics
from collections.abc import Iterator
from typing import Any

from gpu_pieces.store import Place
from gpu_pieces.units import Unit


def summary(place: Place, units: list[Unit], left: dict[str, str], *, tiny: bool) -> dict[str, Any]:
    """Join what is there under the present keys; older results are not mixed in."""
    found: dict[str, dict[str, Any]] = {}
    missing = dict(left)
    for unit in units:
        record = place.record(unit)
        if record is not None and record["status"] == "done":
            found.setdefault(unit.piece, {})[unit.name] = record["result"]
        else:
            missing.setdefault(f"{unit.piece}/{unit.name}", _why(record))
    failed = [name for name, why in missing.items() if why.startswith("failed")]
    failed += [f"bits/{name}" for name, result in found.get("bits", {}).items() if differs(result)]
    return {
        "what": "smoke test, no measurement" if tiny else "benchmarks/gpu.py",
        "device": place.device,
        "machine": place.machine,
        "versions": place.versions,
        "pieces": found,
        "study": study_means(units, found.get("study", {})),
        "left": missing,
        "failed": failed,
    }


def _why(record: dict[str, Any] | None) -> str:
    return "not done" if record is None else f"{record['status']}: {record['reason']}"


def differs(bits: dict[str, Any]) -> bool:
    """Whether any precision of a family failed the bit test."""
    return not all(verdict["equal"] for verdict in bits.values())


def study_means(units: list[Unit], results: dict[str, Any]) -> dict[str, Any]:
    """Mean, standard deviation (n - 1) and values by seed of test AP and AP50, per recipe, arm."""
    groups: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for unit in units:
        if unit.kind == "study" and unit.name in results:
            arms = groups.setdefault(unit.parameters["recipe"], {})
            arms.setdefault(unit.parameters["arm"], []).append(results[unit.name])
    return {
        recipe: {arm: _mean(runs) for arm, runs in arms.items()} for recipe, arms in groups.items()
    }


def _mean(runs: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {"seeds": len(runs), "parameters": runs[0]["parameters"]}
    for name in ("AP", "AP50"):
        values = [run["test"][name] for run in runs]
        found[name] = {"mean": round(statistics.fmean(values), 4), "values": values}
        if len(values) > 1:
            found[name]["standard deviation"] = round(statistics.stdev(values), 4)
    return found


def table(result: dict[str, Any]) -> str:
    """What a person wants to see at the end."""
    lines = ["", f"{result['device']['name']}, torch {result['device']['torch']}"]
    if result["what"].startswith("smoke"):
        lines.append("a smoke test: none of these numbers is a measurement")
    pieces = result["pieces"]
    lines += _bits(pieces.get("bits", {}))
    for name, found in pieces.get("throughput", {}).items():
        lines += _throughput(name, found)
    for name, found in pieces.get("memory", {}).items():
        lines += _memory(name, found)
    for recipe, arms in result["study"].items():
        lines += _study(recipe, arms)
    if result["left"]:
        lines += ["", "left:", *(f"  {name}: {why}" for name, why in result["left"].items())]
    return "\n".join(lines)


def _bits(results: dict[str, Any]) -> Iterator[str]:
    if results:
        yield "\nbits: training twice"
    for family, verdicts in results.items():
        for precision, verdict in verdicts.items():
            said = "equal" if verdict["equal"] else verdict.get("error", "DIFFERENT")
            yield f"  {family:<20}{precision}  {said.splitlines()[0][:120]}"


def _throughput(name: str, found: dict[str, Any]) -> Iterator[str]:
    yield f"\nthroughput {name}, {found['images per step']} images a step"
    if "arms" in found:
        yield from _arms(found["arms"])
    for variant, figures in found.get("variants", {}).items():
        gain = figures.get("gain", {"median": 1.0})["median"]
        yield f"  {variant:<42}{figures['images per second']['median']:9.1f}/s  x{gain:.2f}"
    if "matrix rate in TFLOP/s" in found:
        yield f"  bf16 products {found['matrix rate in TFLOP/s']['median']:.4g} TFLOP/s"
    for step, figures in found.get("vit-base bf16", {}).items():
        share = f"{figures['share']:.1%}" if "share" in figures else figures["left out"]
        yield f"  vit-base {step:<33}{share}"
    for arm, reason in found.get("left out", {}).items():
        yield f"  {arm:<42}left out: {reason.splitlines()[0][:100]}"


def _arms(arms: dict[str, Any]) -> Iterator[str]:
    for arm, figures in arms.items():
        against = [f"x{r['median']:.2f}" for r in figures["speed against"].values()]
        speed = figures["images per second"]
        line = f"  {arm:<42}{speed['median']:9.1f}/s  "
        line += f"[{speed['low quartile']:.1f}, {speed['high quartile']:.1f}]  "
        yield line + "  ".join(against)
    peers = [p for f in list(arms.values())[:1] for p in f["speed against"]]
    yield f"  (speed against {' and '.join(peers) or 'no peer'})"


def _memory(name: str, found: dict[str, Any]) -> Iterator[str]:
    yield f"\nmemory {name}, {found['images per step']} images a step {found['note']}".rstrip()
    for arm, figures in found["arms"].items():
        peak = figures.get("peak in MiB")
        against = "  ".join(f"x{r:.2f}" for r in figures.get("memory against", {}).values())
        said = "not counted" if peak is None else f"{peak:.0f} MiB"
        yield f"  {arm:<42}{figures.get('left out', said)}  {against}".rstrip()


def _study(recipe: str, arms: dict[str, Any]) -> Iterator[str]:
    yield f"\nstudy, recipe {recipe}, test split: mean (standard deviation) over seeds"
    for arm, figures in arms.items():
        cells = [
            f"{name} {figures[name]['mean']:.4f} "
            f"({figures[name].get('standard deviation', float('nan')):.4f})"
            for name in ("AP", "AP50")
        ]
        yield f"  {arm:<10}{figures['parameters']:>12,} parameters  {figures['seeds']} seeds  " + (
            "  ".join(cells)
        )
