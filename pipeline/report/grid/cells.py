"""From records to the cells of the table: means, spreads, changes and tests."""

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.report.grid.experiments import ARMS, Experiment, Reference

FIGURES = ("AP", "AP50", "AP75", "AR100")
_EQUAL = 1e-12  # figures closer than this differ by rounding
PAPER_BACKBONES = ("vit", "swin", "dat")
# Two records of the same cell and seed: the p-value of the difference in AP, or None
Paired = Callable[[Experiment, Experiment], float | None]


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and standard deviation (of a sample) over seeds; None where there are too few."""

    mean: float | None
    sd: float | None

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "Spread":
        """Of the values that are there."""
        known = [value for value in values if value is not None]
        return cls(
            statistics.fmean(known) if known else None,
            statistics.stdev(known) if len(known) > 1 else None,
        )


@dataclass(frozen=True, slots=True)
class Cell:
    """One line of the table.

    Attributes
    ----------
    seeds : tuple of int
        Of the experiments found; none in an empty cell.
    figures : mapping
        Spread of each of `FIGURES`.
    change : float, optional
        Mean AP over the baseline's, less 1.
    p_seeds : float, optional
        Of the difference in AP to the baseline, over seeds, by the test named in `test`.
    p_images : float, optional
        The same over patients or images, for the lowest common seed.
    command : str
        What fills the cell, or "" where there is no such arm.
    """

    dataset: str
    backbone: str
    arm: str
    seeds: tuple[int, ...]
    figures: Mapping[str, Spread]
    change: float | None
    p_seeds: float | None
    test: str
    p_images: float | None
    command: str


@dataclass(frozen=True, slots=True)
class Grid:
    """The cells in order, and the experiments that are in none of them, each with the reason."""

    cells: list[Cell]
    left_out: list[str] = field(default_factory=list)


def build(records: Iterable[Experiment], reference: Reference, paired: Paired) -> Grid:
    """Sort records into cells and compare each arm with its baseline.

    The table has the datasets of the reference and, for each, the backbones of the paper and all
    others that there are records of.
    """
    asked = [record for record in records if record.dataset in reference.settings]
    chosen, left_out = _choose(asked, reference)
    backbones = [*PAPER_BACKBONES, *sorted({b for _, b, _ in chosen} - set(PAPER_BACKBONES))]
    cells = []
    for dataset in reference.settings:
        for backbone in backbones:
            plain = chosen.get((dataset, backbone, "baseline"), {})
            for arm in ARMS:
                mine = chosen.get((dataset, backbone, arm), {})
                command = _command(reference, dataset, backbone, arm, mine)
                against = {} if arm == "baseline" else plain
                cells.append(_cell((dataset, backbone, arm), mine, against, command, paired))
    return Grid(cells, left_out)


Chosen = dict[tuple[str, str, str], dict[int, Experiment]]


def _choose(records: Sequence[Experiment], reference: Reference) -> tuple[Chosen, list[str]]:
    """Records by cell and seed; and why the others are none."""
    chosen: Chosen = {}
    left_out = []
    data = {
        name: _commonest(r.data for r in records if r.dataset == name)
        for name in {r.dataset for r in records}
    }
    for record in records:
        arm = reference.arm_of(record.detector)
        reason = _unfit(record, reference, arm, data[record.dataset])
        if arm is None or reason:
            left_out.append(f"{record.source}, {record.dataset}: {reason}")
            continue
        cell = chosen.setdefault((record.dataset, record.detector["backbone"], arm), {})
        first = cell.setdefault(record.seed, record)
        if first.figures != record.figures:
            left_out.append(
                f"{record.source}, {record.dataset}: same cell and seed as {first.source}, "
                "other figures; the first is taken"
            )
    return chosen, list(dict.fromkeys(left_out))


def _commonest(hashes: Iterable[str]) -> str:
    """The hash that most have, the first among equals."""
    return Counter(hashes).most_common(1)[0][0]


def _unfit(record: Experiment, reference: Reference, arm: str | None, data: str) -> str:
    """Why a record is in no cell; "" if it is in one."""
    wanted = reference.settings[record.dataset]
    differing = [
        f"{key} {record.settings[key]} instead of {value}"
        for key, value in wanted.items()
        if key in record.settings and _plain(record.settings[key]) != _plain(value)
    ]
    if differing:
        return ", ".join(differing)
    if arm is None:
        keys = ("backbone", "pool_layers", "concepts", "width", "copies")
        shown = ", ".join(f"{key} {record.detector[key]}" for key in keys)
        return f"no arm of the table ({shown})"
    return "" if record.data == data else "trained on other data than most of this dataset's"


def _plain(value: object) -> object:
    """A value as JSON has it, where it may have come from."""
    return list(value) if isinstance(value, tuple) else value


def _command(
    reference: Reference, dataset: str, backbone: str, arm: str, found: Mapping[int, Experiment]
) -> str:
    """The command for the first seed that is not there yet."""
    if not reference.possible(backbone, arm):
        return ""
    seed = next(number for number in range(len(found) + 1) if number not in found)
    return reference.command(dataset, backbone, arm, seed)


def _cell(
    key: tuple[str, str, str],
    mine: Mapping[int, Experiment],
    plain: Mapping[int, Experiment],
    command: str,
    paired: Paired,
) -> Cell:
    figures = {name: Spread.of(r.figures.get(name) for r in mine.values()) for name in FIGURES}
    base, here = Spread.of(r.figures["AP"] for r in plain.values()).mean, figures["AP"].mean
    p_seeds, test = over_seeds(_ap(plain), _ap(mine))
    common = sorted(mine.keys() & plain.keys())
    return Cell(
        *key,
        seeds=tuple(sorted(mine)),
        figures=figures,
        change=here / base - 1 if base and here is not None else None,
        p_seeds=p_seeds,
        test=test,
        p_images=paired(plain[common[0]], mine[common[0]]) if common else None,
        command=command,
    )


def _ap(records: Mapping[int, Experiment]) -> dict[int, float]:
    return {s: r.figures["AP"] for s, r in records.items() if r.figures["AP"] is not None}


def over_seeds(a: Mapping[int, float], b: Mapping[int, float]) -> tuple[float | None, str]:
    """p-value of the difference of two arms over seeds, and the test that gave it.

    Paired t-test over the common seeds if there are two or more; else Welch's t-test if both have
    two or more; else none. Without any spread there is nothing to test against.
    """
    from scipy import stats

    common = sorted(a.keys() & b.keys())
    if len(common) > 1:
        differences = [b[seed] - a[seed] for seed in common]
        if statistics.stdev(differences) < _EQUAL:
            return None, "no spread"
        return float(stats.ttest_1samp(differences, 0).pvalue), f"paired t, {len(common)} seeds"
    if len(a) > 1 and len(b) > 1:
        left, right = list(a.values()), list(b.values())
        if max(statistics.stdev(left), statistics.stdev(right)) < _EQUAL:
            return None, "no spread"
        return float(stats.ttest_ind(left, right, equal_var=False).pvalue), "Welch t"
    return None, "fewer than 2 seeds"
