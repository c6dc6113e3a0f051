"""The picture of a run."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from sesurgeon.finetune import EpochRow, Phase
from sesurgeon.finetune.keeping import curve


@pytest.mark.parametrize(("epochs", "frozen"), [(10, 1), (2, 1), (100, 1), (10, 9)])
def test_the_names_of_the_phases_do_not_overlap(
    epochs: int, frozen: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(curve, "save_figure", lambda figure, path: drawn.append(figure))
    scores = {"loss": 1.0, "top1": 50.0, "top5": 99.0}
    rows = tuple(EpochRow(epoch, "", 1.0, scores, 0.1) for epoch in range(-1, epochs))
    phases = (Phase("blocks", 0, frozen), Phase("all", frozen, epochs - frozen))
    curve.draw_curve(rows, phases, tmp_path / "curve.png")
    (figure,) = drawn
    figure.canvas.draw()
    for axes in figure.axes:
        assert [text.get_text() for text in axes.texts] == ["new parts only", "everything"]
        line = axes.transData.transform((frozen, 0))[0]
        before, after = (text.get_window_extent() for text in axes.texts)
        assert before.x1 < line < after.x0
    shown = [text.get_window_extent() for axes in figure.axes for text in (*axes.texts, axes.title)]
    assert not any(one.overlaps(other) for one, other in combinations(shown, 2))


def test_a_run_of_one_phase_has_no_names_in_its_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(curve, "save_figure", lambda figure, path: drawn.append(figure))
    row = EpochRow(-1, "", None, {"loss": 1.0, "top1": 50.0, "top5": 99.0}, None)
    curve.draw_curve((row,), (Phase("all", 0, 3),), tmp_path / "curve.png")
    assert [axes.texts[:] for axes in drawn[0].axes] == [[], []]
