from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from matplotlib import font_manager

from sesurgeon.errors import OutputError
from sesurgeon.finetune.keeping.lettering import lettering_for
from sesurgeon.finetune.keeping.records import EpochRow
from sesurgeon.finetune.keeping.report import write_run_report
from sesurgeon.finetune.scoring.evaluation import Evaluation
from sesurgeon.finetune.scoring.gatestatistics import GateStatistics
from sesurgeon.words import spaces_shown


def evaluation(*guesses: int, names: tuple[str, ...] = ("cat", "dog")) -> Evaluation:
    """Of images that show class 0, 1, 0, 1, …; each guess has probability 1/2."""
    predictions = torch.tensor(guesses)
    labels = torch.arange(len(guesses)) % 2
    losses = torch.full((len(guesses),), 2.0).log()
    return Evaluation(dict(enumerate(names)), 3, 3, labels, predictions, torch.ones_like(labels).bool(), losses)


def gate(name: str, largest: float) -> GateStatistics:
    return GateStatistics(name, 64, 8, 1.01, 0.02, 0.025, 0.03, None, 0.0, 1.0, 0.0, 2.0, 0.04, largest)


def written(folder: Path, milestones: Mapping[str, Evaluation], **parts: object) -> str:
    write_run_report(folder / "report.md", "flowers", milestones, **parts)  # type: ignore[arg-type]
    return (folder / "report.md").read_text(encoding="utf-8")


def test_milestones_are_compared_with_the_first(tmp_path: Path) -> None:
    base, best = evaluation(0, 0, 0, 0), evaluation(0, 1, 1, 1)
    text = written(tmp_path, {"base": base, "after surgery": base, "best": best})
    assert text.startswith("# flowers\n\n|  | top-1 | top-3 | loss | images | fixed | broken |\n| --- | ---: |")
    assert "| base | 50.00 % | 100.00 % | 0.6931 | 4 |  |  |\n" in text
    assert "| after surgery | 50.00 % | 100.00 % | 0.6931 | 4 | 0 | 0 |\n" in text
    assert "| best | 75.00 % | 100.00 % | 0.6931 | 4 | 2 | 1 |\n" in text
    # paired differences 0, 1, -1, 1: mean 1/4, variance 3/4 - 1/16
    assert 'From "base" to "best" top-1 changed by +25.00 points.' in text
    assert "from the choice of the 4 images, is 41.46 points; the change is at most two of them" in text
    unchanged = written(tmp_path, {"base": base, "best": base})
    assert 'From "base" to "best" no image became right or wrong.' in unchanged


def test_a_clear_gain_is_told_from_chance(tmp_path: Path) -> None:
    base, best = evaluation(*[0] * 40), evaluation(*[0, 1] * 20)
    text = written(tmp_path, {"base": base, "best": best})
    assert "changed by +50.00 points" in text
    assert "the change is more than two of them." in text
    text = written(tmp_path, {"base": base, "best": evaluation(0, 1, 0, 1, *[0] * 36)})
    assert "changed by +5.00 points" in text
    assert "is 3.45 points; the change is at most two of them: it may be chance." in text


def test_other_images_are_not_compared(tmp_path: Path) -> None:
    text = written(tmp_path, {"base": evaluation(0, 0), "best": evaluation(0, 1, 0)})
    assert "| best | 100.00 % | 100.00 % | 0.6931 | 3 |  |  |\n" in text
    assert "points" not in text


def test_gates_that_did_not_move_are_named(tmp_path: Path) -> None:
    last = {"best": evaluation(0, 1)}
    text = written(tmp_path, last, gates=[gate("layer1.0.se", 0.5), gate("layer2.0.se", 0.001)])
    assert "1 of 2 gates did not move (none of their factors by 0.01): `layer2.0.se`." in text
    assert "| `layer1.0.se` | 1.0100 | 0.0200 | 0.0300 | 0.0400 | 0.5000 |\n" in text
    assert "All 2 gates moved." in written(tmp_path, last, gates=[gate("a.se", 0.5), gate("b.se", 0.4)])


def test_gates_of_the_state_before_training_say_nothing_of_what_was_learned(tmp_path: Path) -> None:
    rows = (
        EpochRow(-1, "", None, {"loss": 0.7, "top1": 50.0, "top5": 100.0}, None),
        EpochRow(0, "all", 0.6, {"loss": 0.8, "top1": 25.0, "top5": 100.0}, 0.001),
    )
    text = written(tmp_path, {"best.pt": evaluation(0, 1)}, gates=[gate("a.se", 0.0)], rows=rows)
    assert "`best.pt` holds the state before training: what gates learned since is in `last.pt` alone." in text
    assert "learned nothing" not in text


def test_classes_and_what_they_are_taken_for(tmp_path: Path) -> None:
    text = written(tmp_path, {"base": evaluation(0, 1, 0, 1), "best": evaluation(0, 2, 1, 2)})
    assert "## Classes\n\n| class | images | top-1 at first | top-1 now |" in text
    assert text.index("| dog | 2 | 100.00 % | 0.00 % |") < text.index("| cat | 2 | 100.00 % | 50.00 % |")
    assert text.index("| dog | #2 | 2 |") < text.index("| cat | dog | 1 |")
    assert "Taken for" not in written(tmp_path, {"best": evaluation(0, 1)})


def test_of_many_classes_the_worst_are_listed(tmp_path: Path) -> None:
    labels = torch.arange(12)
    names = {index: f"c{index:02}" for index in range(12)}
    found = Evaluation(names, 12, 5, labels, labels.clamp(max=9), labels > -1, torch.zeros(12))
    text = written(tmp_path, {"best": found})
    assert "## The 10 worst of 12 classes" in text
    listed = [name for name in names.values() if f"\n| {name} | 1 |" in text]
    assert listed == [*[f"c{index:02}" for index in range(8)], "c10", "c11"]


def test_epochs_with_the_best_in_bold(tmp_path: Path) -> None:
    rows = (
        EpochRow(-1, "", None, {"loss": 0.7, "top1": 50.0, "top5": 100.0}, None),
        EpochRow(0, "blocks", 0.61234, {"loss": 0.6, "top1": 75.0, "top5": 100.0}, 0.001),
        EpochRow(1, "all", 0.5, {"loss": 0.65, "top1": 75.0, "top5": 100.0}, 0.00025),
    )
    text = written(tmp_path, {"best": evaluation(0, 1)}, rows=rows)  # of three outputs
    assert "| epoch | phase | training loss | loss | top-1 | top-3 | largest learning rate |" in text
    assert "| before |  |  | 0.7000 | 50.00 % | 100.00 % |  |\n" in text
    assert "| **1** | **blocks** | **0.6123** | **0.6000** | **75.00 %** | **100.00 %** | **0.001** |\n" in text
    assert "| 2 | all | 0.5000 | 0.6500 | 75.00 % | 100.00 % | 0.00025 |\n" in text
    assert "summary.csv" not in text


def test_of_many_epochs_some_are_shown_with_best_and_last(tmp_path: Path) -> None:
    rows = tuple(
        EpochRow(epoch, "all", 1.0, {"loss": 1.0, "top1": 90.0 if epoch == 100 else 50.0, "top5": 99.0}, 0.1)
        for epoch in range(-1, 200)
    )
    text = written(tmp_path, {"best": evaluation(0, 1)}, rows=rows)
    assert "`summary.csv` has them" in text
    assert "| **101** |" in text
    assert "| 200 |" in text
    assert text.count(" | all | ") < 35


def test_without_a_metric_the_last_epoch_is_bold(tmp_path: Path) -> None:
    rows = tuple(
        EpochRow(epoch, "all", 1.0, {"loss": 1.0, "top1": 90.0 - epoch, "top5": 99.0}, 0.1) for epoch in range(-1, 2)
    )
    text = written(tmp_path, {"best.pt": evaluation(0, 1)}, rows=rows, metric=None)
    assert "| **2** |" in text
    assert text.count("\n| **") == 1


def test_names_cannot_break_the_page(tmp_path: Path) -> None:
    found = evaluation(1, 1, names=("a|b *c* [d] <e> $f$", "两\n行"))
    text = written(tmp_path, {"x_y": found}, notes=["It has `ticks`."])
    assert r"| a\|b \*c\* \[d\] \<e\> \$f\$ | 两␣行 | 1 |" in text
    assert r"| x\_y |" in text
    assert "It has \\`ticks\\`." in text


def test_names_that_differ_in_spaces_look_different(tmp_path: Path) -> None:
    text = written(tmp_path, {"best": evaluation(1, 1, names=("cat", "cat "))})
    assert "| cat | cat␣ | 1 |" in text
    assert spaces_shown(" a  b c\t") == "␣a ␣b c␣"
    assert spaces_shown("sea lion") == "sea lion"
    assert lettering_for({0: "cat", 1: "cat "}).names == {0: "cat", 1: "cat␣"}


def test_the_face_that_is_drawn_with_says_what_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    # As Debian's DejaVu Sans ExtraLight, which lacks the sign for a space, where it is the last that is found.
    fonts = font_manager.fontManager.ttflist
    poor = next(font for font in fonts if font.name == "STIXSizeFiveSym")
    monkeypatch.setattr(
        font_manager.fontManager, "ttflist", [*fonts, dataclasses.replace(poor, name="DejaVu Sans", weight=200)]
    )
    assert lettering_for({1: "cat "}).names == {1: "cat␣"}


def test_pictures_are_linked_from_where_the_report_lies(tmp_path: Path) -> None:
    pictures = [tmp_path / "curve.png", tmp_path / "more pictures" / "confusion.png"]
    text = written(tmp_path, {"best": evaluation(0, 1)}, pictures=pictures)
    assert "![curve](curve.png)\n![confusion](more%20pictures/confusion.png)\n" in text


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="does not exist"):
        write_run_report(tmp_path / "gone" / "report.md", "t", {"best": evaluation(0, 1)})
    assert list(tmp_path.iterdir()) == []


def test_classes_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    base, best = (evaluation(*guesses, names=("crane", "crane")) for guesses in ((0, 0, 0, 0), (1, 1, 0, 1)))
    text = written(tmp_path, {"base": base, "best": best})
    assert "| crane | 2 | 100.00 % | 50.00 % |\n| crane | 2 | 0.00 % | 100.00 % |" in text
