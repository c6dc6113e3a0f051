"""The gates of a network, studied on images."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sesurgeon.errors import SesurgeonError, UsageError
from sesurgeon.files import StrPath
from sesurgeon.finetune import Data, EvaluationStep
from sesurgeon.finetune.data.loader import check_loading
from sesurgeon.finetune.data.readers import read, readers_ended
from sesurgeon.finetune.events import OnProgress, ignore
from sesurgeon.finetune.scoring.evaluate import ensure_open, lacks_labels, prepared
from sesurgeon.finetune.scoring.forward import as_input, evaluating
from sesurgeon.finetune.scoring.gatestatistics import GateStatistics
from sesurgeon.finetune.scoring.gatesums import GateSums
from sesurgeon.finetune.scoring.gatewatch import statistics_of, watching_gates
from sesurgeon.surgery import blocks_of
from sesurgeon.words import some

_USUAL_CLASSES = 4  # as many as in figure 5 of the paper
_MOST = 10


@dataclass(frozen=True, eq=False)
class GateStudy:
    """What the gates did, in the order in which they run.

    Attributes:
        gates: their statistics.
        classes: the names of the chosen classes; none if the images have no labels.
        means: by gate, the mean factor of each channel over all images, (channels,), float64.
        spreads: by gate, the standard deviation of each channel over images and places, likewise.
        class_means: by gate, the mean factor of each chosen class and channel, (classes, channels); NaN for a class
            without images, and for a gate that gets several views of each image.
        images: the number of images.
    """

    gates: tuple[GateStatistics, ...]
    classes: tuple[str, ...]
    means: Mapping[str, Tensor]
    spreads: Mapping[str, Tensor]
    class_means: Mapping[str, Tensor]
    images: int

    def called(self, verdict: str) -> tuple[str, ...]:
        """The gates with that verdict: "open", "constant" or "live"."""
        return tuple(gate.gate for gate in self.gates if gate.verdict == verdict)


def study_gates(
    model: nn.Module,
    data: Data | StrPath,
    *,
    classes: Sequence[str] | None = None,
    split: str = "val",
    batch_size: int = 64,
    workers: int = 4,
    img_size: int | None = None,
    device: str | None = None,
    on_progress: OnProgress = ignore,
) -> GateStudy:
    """Run ``model`` over one set of ``data`` and study what the gates of its inserted blocks give.

    These are the statistics and the figures of section 7.2 of the SE paper (https://arxiv.org/abs/1709.01507). The
    model's train and eval modes are left as they were.

    Args:
        model: a classifier with inserted blocks.
        data: opened data, or what :func:`sesurgeon.finetune.open_held_out` takes. A folder or a tar may lack class
            folders, as for ``finetune --distill 1``: then nothing is known by class.
        classes: the names of the classes whose means are kept; by default four, evenly spread over all.
        split, batch_size, workers, img_size, device, on_progress: see :func:`sesurgeon.evaluate`.

    Raises:
        UsageError: there are no inserted blocks, the data lack one of ``classes``, or ``classes`` is a single name; or
            as :func:`sesurgeon.evaluate` raises it.
        DataError: as :func:`sesurgeon.evaluate` raises it.
        SesurgeonError: a gate gives factors that are not finite.
    """
    check_loading(batch_size, workers)
    require_blocks(model)
    unlabelled = not isinstance(data, Data) and lacks_labels(model, data)
    data = ensure_open(model, data, split=split, workers=workers, on_progress=on_progress, unlabelled=unlabelled)
    rows = choose_classes(() if data.unlabelled else data.classes, classes)
    given = prepared(
        model, data, split=split, batch_size=batch_size, workers=workers, img_size=img_size, device=device,
        labelled=False,
    )  # fmt: skip
    steps = len(given.batches)
    places = {index: place for place, index in enumerate(given.classes)}
    with watching_gates(model, len(places)) as watch, evaluating(model), torch.no_grad(), readers_ended(given.batches):
        for step, (images, labels) in enumerate(read(given.batches), start=1):
            # by class of the data, because the network may have a thousand times as many outputs
            several = labels.ndim == 2
            watch.set_labels(labels[:, list(places)] if several else torch.tensor([places[int(one)] for one in labels]))
            model(as_input(images, model))
            on_progress(EvaluationStep(step, steps))
    check_finite(watch.sums())
    seen = {sums.gate: sums for sums in watch.sums()}
    return GateStudy(
        gates=statistics_of(model, seen.values()),
        classes=tuple(data.classes[row] for row in rows),
        means={gate: sums.channel_means() for gate, sums in seen.items()},
        spreads={gate: sums.channel_spreads() for gate, sums in seen.items()},
        class_means={gate: _of_classes(sums, rows) for gate, sums in seen.items()},
        images=len(data.split(split)),
    )


def require_blocks(model: nn.Module) -> None:
    """Raise a UsageError for a model without inserted blocks."""
    if not blocks_of(model):
        raise UsageError(
            f"There are no inserted blocks in this {type(model).__name__}.",
            hint="Take what add-se or finetune wrote; gates of an architecture itself are neither studied nor pruned.",
        )


def check_finite(seen: Iterable[GateSums]) -> None:
    """Raise a SesurgeonError for gates whose factors were not finite, which have no statistics."""
    broken = [sums.gate for sums in seen if not sums.finite]
    if broken:
        raise SesurgeonError(f"The gate {broken[0]} gives factors that are not finite.", hint="Check its weights.")


def _of_classes(sums: GateSums, rows: list[int]) -> Tensor:
    means = sums.class_means()
    return torch.full((len(rows), sums.channels), torch.nan) if means is None else means[rows]


def choose_classes(known: Sequence[str], named: Sequence[str] | None) -> list[int]:
    """The indices of the classes of these names; by default, of four classes, evenly spread over all.

    Raises:
        UsageError: some names are unknown, which are listed with the nearest known ones; or ``named`` is a single name.
    """
    if isinstance(named, str):  # each letter would be taken for a name
        raise UsageError(f"classes (={named!r}) must be a list of names.", hint=f"Write classes=[{named!r}].")
    if named is None:
        return evenly_spread(len(known), _USUAL_CLASSES)
    wrong = [name for name in named if name not in known]
    if wrong:
        near = {name: difflib.get_close_matches(name, known, n=3) for name in wrong}
        told = "; ".join(f"'{name}'" + (f" (nearest: {', '.join(near[name])})" if near[name] else "") for name in wrong)
        raise UsageError(f"The data have no class {told}.", hint=f"They have {some(known, _MOST) or 'none'}.")
    return [known.index(name) for name in dict.fromkeys(named)]


def evenly_spread(total: int, most: int) -> list[int]:
    """Up to ``most`` indices below ``total``, evenly spread from the first to the last."""
    few = min(most, total)
    return [round(number * (total - 1) / max(few - 1, 1)) for number in range(few)]
