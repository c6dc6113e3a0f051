"""Either kind of evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

from sesurgeon.finetune.scoring.evaluation import Evaluation
from sesurgeon.finetune.scoring.multilabel import MultiLabelEvaluation

Measured: TypeAlias = Evaluation | MultiLabelEvaluation

SHARES = ("top1", "top5", "map", "f1")
"""The scores in tables, of either kind of evaluation, in per cent."""

_LABELS: Mapping[str, str] = MappingProxyType(
    {"loss": "val loss", "top1": "top-1", "top5": "top-5", "balanced": "balanced top-1", "map": "mAP", "f1": "F1"}
)


def score_label(name: str, found: Measured | None = None) -> str:
    """The name of a score in tables. With three outputs, top-5 is top-3."""
    return f"top-{found.k}" if name == "top5" and isinstance(found, Evaluation) else _LABELS.get(name, name)


def restored(data: Mapping[str, Any]) -> Measured:
    """The inverse of ``to_dict`` of either kind."""
    return MultiLabelEvaluation.from_dict(data) if "probabilities" in data else Evaluation.from_dict(data)
