"""The demo in small: the same steps, fewer epochs."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

import sesurgeon
from sesurgeon.demo import DemoEvent, DemoResult, DemoSettings, StepFinished, StepStarted, run_demo
from sesurgeon.demo.digits import write_digits
from sesurgeon.demo.network import small_resnet, train_network
from sesurgeon.demo.run import require_same_scores
from sesurgeon.errors import OutputError, VerificationError
from sesurgeon.finetune import Evaluation, open_data
from sesurgeon.surgery import Proof, blocks_of

SMALL = DemoSettings(images=400, base_epochs=6, epochs=2, freeze_epochs=1)


@pytest.fixture(scope="module")
def told() -> list[DemoEvent]:
    return []


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory, told: list[DemoEvent]) -> DemoResult:
    torch.set_num_threads(2)
    found = run_demo(tmp_path_factory.mktemp("demo") / "new", SMALL, on_progress=told.append)
    assert torch.get_num_threads() == 2  # what the caller had set
    torch.set_num_threads(1)
    return found


def test_surgery_changes_no_score_and_no_bit(result: DemoResult) -> None:
    assert result.surgery.proof == Proof(True, True)
    assert torch.equal(result.base.losses, result.augmented.losses)
    assert torch.equal(result.base.predictions, result.augmented.predictions)
    assert result.base.top1 > 50  # it has learned something; chance is 10


def test_its_numbers_are_those_of_its_files(result: DemoResult) -> None:
    data = result.folder / "digits"
    for file, found in (("digits.pt", result.base), ("digits.se.pt", result.augmented)):
        again = sesurgeon.evaluate(sesurgeon.load(result.folder / file), data, workers=0)
        assert (again.top1, again.images) == (found.top1, 100)
    best = sesurgeon.load(result.folder / "runs/finetune/exp/best.pt")
    assert sesurgeon.evaluate(best, data, workers=0).top1 == result.tuned.top1
    assert len(blocks_of(best)) == 3
    assert result.after.parameters - result.before.parameters == sum(
        parameter.numel() for block in blocks_of(best).values() for parameter in block.parameters()
    )
    assert result.report.path == result.folder / "digits.onnx"
    assert result.other_labels == 0
    assert result.onnx.top1 == result.tuned.top1


def test_it_tells_each_command_before_and_each_outcome_after(result: DemoResult, told: list[DemoEvent]) -> None:
    steps = [event for event in told if isinstance(event, (StepStarted, StepFinished))]
    assert [type(event) for event in steps] == [StepStarted, StepFinished] * 9
    assert [event.command for event in steps if isinstance(event, StepStarted)] == [
        "",
        "",
        "sesurgeon evaluate digits.pt --data digits -j 0",
        "sesurgeon add-se digits.pt --input-shape 1,8,8",
        "sesurgeon evaluate digits.se.pt --data digits -j 0",
        "sesurgeon finetune digits.se.pt --data digits -j 0 --epochs 2 --freeze-epochs 1",
        "sesurgeon evaluate runs/finetune/exp/best.pt --data digits -j 0",
        "sesurgeon export runs/finetune/exp/best.pt --onnx -o digits.onnx",
        "sesurgeon evaluate digits.onnx --data digits -j 0",
    ]
    assert all(event.outcome and event.seconds >= 0 for event in steps if isinstance(event, StepFinished))


def test_other_scores_are_an_error(result: DemoResult) -> None:
    require_same_scores(result.base, result.base)
    for other in (
        {"losses": result.base.losses * (1 + 2**-20)},
        {"predictions": (result.base.predictions + 1) % 10},
    ):
        with pytest.raises(VerificationError, match="should be the same"):
            require_same_scores(result.base, Evaluation(**{**vars(result.base), **other}))


def test_a_folder_that_is_not_empty_is_refused_and_stays(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="not empty") as caught:
        run_demo(tmp_path, SMALL)
    assert caught.value.hint is not None
    assert "--force" in caught.value.hint
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file"):
        run_demo(tmp_path / "file", SMALL)


def test_the_digits_are_scikit_learns(tmp_path: Path) -> None:
    assert write_digits(tmp_path, images=1797, seed=0) == (1347, 450)
    files = {int(file.stem): file for file in tmp_path.rglob("*.png")}
    digits = load_digits()
    assert sorted(files) == list(range(1797))
    for index in (0, 42, 1796):
        assert files[index].parent.name == str(digits.target[index])
        pixels = np.asarray(Image.open(files[index]))
        assert np.array_equal(np.rint(pixels / 255 * 16), digits.images[index])
    held_out = [len(list((tmp_path / "val" / str(label)).iterdir())) for label in range(10)]
    assert np.abs(np.array(held_out) - np.bincount(digits.target) / 4).max() < 1


def test_the_network_is_read_without_trust(tmp_path: Path) -> None:
    model = small_resnet(10).eval()
    torch.save(model, tmp_path / "digits.pt")
    image = torch.randn(2, 1, 8, 8)
    assert torch.equal(sesurgeon.load(tmp_path / "digits.pt")(image), model(image))


def test_several_gpus_that_are_not_used_give_no_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_digits(tmp_path, images=100, seed=0)
    data = open_data(tmp_path)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)  # torch.random.fork_rng() would warn, once
    state = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train_network(data, epochs=1, seed=0, on_epoch=lambda *_: None)
    assert torch.equal(torch.get_rng_state(), state)


def test_another_seed_leaves_no_image_in_both_parts(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_digits(tmp_path, images=200, seed=seed)
    train, val = ({file.name for file in (tmp_path / part).glob("*/*.png")} for part in ("train", "val"))
    assert len(train) + len(val) == 200
    assert not train & val
