"""The two kinds of evaluation, where it does not matter which one it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from sesurgeon.finetune.scoring.multilabel import MultiLabelEvaluation
from sesurgeon.finetune.scoring.scores import Evaluation

Measured: TypeAlias = Evaluation | MultiLabelEvaluation


def joined(parts: Sequence[Measured]) -> Measured:
    """One evaluation of which each of ``parts``, all of a kind, has every n-th image, dealt out in turn."""
    several = [part for part in parts if isinstance(part, MultiLabelEvaluation)]
    if several:
        return MultiLabelEvaluation.joined(several)
    return Evaluation.joined([part for part in parts if isinstance(part, Evaluation)])


def restored(data: Mapping[str, Any]) -> Measured:
    """The inverse of either's ``to_dict``."""
    return MultiLabelEvaluation.from_dict(data) if "probabilities" in data else Evaluation.from_dict(data)
