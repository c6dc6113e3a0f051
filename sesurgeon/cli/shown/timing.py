"""How measured times and memory look on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich import filesize
from rich.console import Group
from rich.table import Table
from rich.text import Text

from sesurgeon.cli.shown.console import Output
from sesurgeon.errors import UntraceableError
from sesurgeon.words import in_per_cent

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID
    from torch import Tensor, nn

    from sesurgeon.export import LatencyRatio, MemoryRatio, PlacementCost

_PASSES = 30  # of each network


def timed(
    out: Output, base: nn.Module, augmented: nn.Module, inputs: tuple[Any, ...], **options: Any
) -> list[LatencyRatio]:
    """:func:`sesurgeon.export.measure_latency`, with a bar for each runtime and batch size."""
    from sesurgeon.export import measure_latency

    with out.progress() as progress:
        return measure_latency(base, augmented, inputs, progress=_Bars(progress), **options)


def pass_times(base: nn.Module, other: nn.Module, images: Tensor) -> tuple[float, float]:
    """Median milliseconds per pass of each network in PyTorch; the two run in turn.

    Raises:
        UntraceableError: one of them fails.
    """
    from sesurgeon.export import measure_latency

    (found,) = measure_latency(base, other, images, batches=(len(images),), repeats=_PASSES, runtimes=("torch",))
    if found.base_ms is None or found.augmented_ms is None:
        raise UntraceableError(f"The networks could not be timed: {found.failure}.", hint="Give --no-latency.")
    return found.base_ms, found.augmented_ms


def latency_table(ratios: Sequence[LatencyRatio], names: tuple[str, str] = ("before", "after")) -> Group:
    """A row for each runtime and batch size; half of the pairs have a ratio within the middle half.

    Below it, why some could not run.
    """
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("time on this machine")
    for column in ("batch", *names, "ratio", "middle half"):
        table.add_column(column, justify="right")
    for measured in ratios:
        if measured.failure is not None:
            table.add_row(measured.runtime, str(measured.batch), "-", "-", "-", "-")
            continue
        low, high = measured.quartiles or (0, 0)
        table.add_row(
            measured.runtime,
            str(measured.batch),
            f"{measured.base_ms:.2f} ms",
            f"{measured.augmented_ms:.2f} ms",
            f"{measured.ratio:.3f}",
            f"{low:.3f} to {high:.3f}",
        )
    return Group(table, *_failures(ratios))


def memory_table(memory: Sequence[MemoryRatio], names: tuple[str, str] = ("before", "after")) -> Group:
    """A row for a forward pass, and one for a training step. Below it, why one could not run."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("\npeak memory of tensors")
    for column in ("batch", *names, "ratio"):
        table.add_column(f"\n{column}", justify="right")
    for one in memory:
        if one.base_bytes is None or one.augmented_bytes is None:
            table.add_row(one.runtime, str(one.batch), "-", "-", "-")
            continue
        sizes = (filesize.decimal(one.base_bytes), filesize.decimal(one.augmented_bytes))
        table.add_row(one.runtime, str(one.batch), *sizes, f"{one.ratio:.3f}")
    return Group(table, *_failures(memory))


def placement_costs(
    out: Output, base: nn.Module, inputs: tuple[Any, ...], batch: int, repeats: int, runtimes: Sequence[Any]
) -> list[PlacementCost]:
    """:func:`sesurgeon.export.measure_placements`, with a bar for each placement and runtime."""
    from sesurgeon.export import measure_placements

    with out.progress() as progress:
        return measure_placements(
            base, inputs, batch=batch, repeats=repeats, runtimes=runtimes, progress=_Bars(progress)
        )


def placement_table(costs: Sequence[PlacementCost]) -> Group:
    """A row for each placement: the time that it adds in each runtime, with quartiles. Below it, what did not run."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("placement")
    runtimes = list(dict.fromkeys(one.runtime for cost in costs for one in cost.latency))
    for column in ("blocks", "parameters", *runtimes):
        table.add_column(column, justify="right")
    for cost in costs:
        times = {one.runtime: _added(one) for one in cost.latency}
        table.add_row(cost.name, str(cost.blocks), f"{cost.parameters:,}", *(times[name] for name in runtimes))
    return Group(table, *_failures([one for cost in costs for one in cost.latency]))


def _failures(measured: Sequence[LatencyRatio | MemoryRatio]) -> list[Text]:
    """A line for each reason why a runtime could not run a network."""
    return [Text(line) for line in dict.fromkeys(f"{one.runtime}: {one.failure}" for one in measured if one.failure)]


def _added(measured: LatencyRatio) -> str:
    if measured.ratio is None or measured.quartiles is None:
        return "-"
    low, high = (in_per_cent(quartile - 1, "+.1f").removesuffix(" %") for quartile in measured.quartiles)
    return f"{in_per_cent(measured.ratio - 1, '+.1f')} ({low} to {high})"


class _Bars:
    """Progress bars, one for each title, created at its first call."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bars: dict[str, TaskID] = {}

    def __call__(self, title: str, done: int, of: int) -> None:
        if title not in self._bars:
            self._bars[title] = self._progress.add_task(title, total=of)
        self._progress.update(self._bars[title], completed=done)
