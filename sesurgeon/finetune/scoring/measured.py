"""The two kinds of evaluation, where it does not matter which one it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

from sesurgeon.finetune.scoring.multilabel import MultiLabelEvaluation
from sesurgeon.finetune.scoring.scores import Evaluation

Measured: TypeAlias = Evaluation | MultiLabelEvaluation

SHARES = ("top1", "top5", "map", "f1")
"""The scores in per cent that a table of an evaluation has, those of either kind."""

_LABELS: Mapping[str, str] = MappingProxyType(
    {"loss": "val loss", "top1": "top-1", "top5": "top-5", "balanced": "balanced top-1", "map": "mAP", "f1": "F1"}
)


def score_label(name: str, found: Measured | None = None) -> str:
    """What a score is called; of an evaluation of three outputs, top-5 is top-3."""
    return f"top-{found.k}" if name == "top5" and isinstance(found, Evaluation) else _LABELS.get(name, name)


def joined(parts: Sequence[Measured]) -> Measured:
    """One evaluation of which each of ``parts``, all of a kind, has every n-th image, dealt out in turn."""
    several = [part for part in parts if isinstance(part, MultiLabelEvaluation)]
    if several:
        return MultiLabelEvaluation.joined(several)
    return Evaluation.joined([part for part in parts if isinstance(part, Evaluation)])


def restored(data: Mapping[str, Any]) -> Measured:
    """The inverse of either's ``to_dict``."""
    return MultiLabelEvaluation.from_dict(data) if "probabilities" in data else Evaluation.from_dict(data)
