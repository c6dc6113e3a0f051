from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import sesurgeon
from sesurgeon.errors import DataError, SesurgeonError, UsageError
from sesurgeon.finetune import EvaluationStep, ImagesChecked, find_images, predict
from sesurgeon.models.preprocessing import Preprocessing
from sesurgeon.models.provenance import Provenance, attach_provenance
from sesurgeon.models.sources.source import Source

MakeNet = Callable[..., nn.Module]
PLAIN = Preprocessing((1, 1, 4), (0.0,), (1.0,))


class Pixels(nn.Module):
    """Gives the pixels of a 1 x 4 image, of values from 0 to 1, as logits."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def named(model: nn.Module, *classes: str, preprocessing: Preprocessing | None = PLAIN) -> nn.Module:
    attach_provenance(model, Provenance(Source("module"), classes=classes or None, preprocessing=preprocessing))
    return model


def write(path: Path, *pixels: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array([pixels], dtype=np.uint8)).save(path)
    return path


def test_guesses_worked_out_by_hand(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", 0, 255, 51, 102)
    (image,) = predict(named(Pixels(), "n", "e", "s", "w"), path, topk=3).images
    assert image.path == path
    assert [(guess.label, guess.index) for guess in image.guesses] == [("e", 1), ("w", 3), ("s", 2)]
    e = np.exp([0, 1, 0.2, 0.4])
    by_hand = e[[1, 3, 2]] / e.sum()
    assert [guess.probability for guess in image.guesses] == pytest.approx(by_hand.tolist(), rel=1e-6)


def test_an_output_without_a_name_is_its_index(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", 0, 0, 200, 100)
    (image,) = predict(named(Pixels()), path, topk=99).images
    assert [guess.label for guess in image.guesses][:2] == ["2", "3"]
    assert len(image.guesses) == 4
    assert sum(guess.probability for guess in image.guesses) == pytest.approx(1)


def test_images_come_in_the_order_given_each_once(tmp_path: Path) -> None:
    last = write(tmp_path / "z.png", 9, 0, 0, 0)
    folder = tmp_path / "folder "
    for name in ("b/3.PNG", "a/2.png", "1.png", ".hidden.png"):
        write(folder / name, 0, 9, 0, 0)
    (folder / "notes.txt").write_text("no image")
    expected = [last, folder / "1.png", folder / "a/2.png", folder / "b/3.PNG"]
    assert list(find_images([last, folder, str(folder / "1.png")])) == expected
    found = predict(named(Pixels()), [last, folder], batch_size=3, topk=1)
    assert [image.path for image in found.images] == expected
    assert [image.guesses[0].index for image in found.images] == [0, 1, 1, 1]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_and_workers_change_nothing(workers: int, make_net: MakeNet, class_folder: Path) -> None:
    model = make_net()
    whole = predict(model, class_folder, workers=0)
    parts = predict(model, class_folder, batch_size=7, workers=workers)
    assert [image.path for image in parts.images] == [image.path for image in whole.images]
    for one, other in zip(parts.images, whole.images, strict=True):
        assert [guess.label for guess in one.guesses] == [guess.label for guess in other.guesses]
        assert one.guesses[0].probability == pytest.approx(other.guesses[0].probability, rel=1e-5)


def test_it_agrees_with_evaluate(make_net: MakeNet, split_folder: Path) -> None:
    model = named(make_net(), "right", "left", preprocessing=Preprocessing((1, 8, 8), (0.5,), (0.25,)))
    measured = sesurgeon.evaluate(model, split_folder, workers=0)
    found = sesurgeon.predict(model, split_folder / "val", workers=0)
    assert [image.guesses[0].index for image in found.images] == measured.predictions.tolist()


def test_every_pixel_format_is_read(tmp_path: Path) -> None:
    grey = np.array([[0, 255, 102, 51]], dtype=np.uint8)
    colour = Image.fromarray(grey).convert("RGB")
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    colour.convert("RGBA").save(tmp_path / "alpha.png")
    colour.quantize(4).save(tmp_path / "palette.png")
    colour.convert("CMYK").save(tmp_path / "print.tif")
    colour.save(tmp_path / "照片 é.bmp")
    found = predict(named(Pixels()), tmp_path, topk=4)
    assert (len(found.images), found.skipped) == (6, ())
    for image in found.images:
        assert [guess.index for guess in image.guesses] == [1, 2, 3, 0], image.path
        assert image.guesses[0].probability == pytest.approx(found.images[0].guesses[0].probability, rel=0.01)


def test_unreadable_files_are_listed_and_the_rest_goes_on(tmp_path: Path) -> None:
    good = write(tmp_path / "b.png", 0, 0, 9, 0)
    torn, text = tmp_path / "a.png", tmp_path / "c.jpg"
    torn.write_bytes(good.read_bytes()[:40])
    text.write_text("no image")
    found = predict(named(Pixels()), tmp_path)
    assert [image.path for image in found.images] == [good]
    assert [bad.path for bad in found.skipped] == [torn, text]
    assert all(bad.reason for bad in found.skipped)
    with pytest.raises(DataError, match=r"2 of 2 images cannot be read:\n.*a\.png: "):
        predict(named(Pixels()), [torn, text])


def test_flags_random_state_and_weights_are_left(make_net: MakeNet, class_folder: Path) -> None:
    model = make_net().train()
    model.get_submodule("bn").eval()
    flags = [module.training for module in model.modules()]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    predict(model, class_folder, workers=0)
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_progress_counts_files_then_steps(tmp_path: Path) -> None:
    events: list[object] = []
    for name in "abc":
        write(tmp_path / f"{name}.png", 1, 2, 3, 4)
    predict(named(Pixels()), tmp_path, batch_size=2, workers=0, on_progress=events.append)
    assert events == [*(ImagesChecked(done, 3) for done in (1, 2, 3)), EvaluationStep(1, 2), EvaluationStep(2, 2)]


def test_what_the_model_saw_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", 1, 2, 3, 4)
    assert predict(named(Pixels()), path).input_size == (1, 1, 4)
    assert predict(named(Pixels()), path, img_size=2).input_size == (1, 2, 2)
    silent = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten())
    assert predict(silent, path).input_size == (1, 1, 4)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (["gone.png", "empty"], "no such file or folder: gone.png"),
        (["empty", "texts"], "No image found in empty, texts"),
        ("empty", "No image found in empty"),
    ],
)
def test_missing_images_are_data_errors(
    images: list[str] | str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "texts"):
        Path(name).mkdir()
    Path("texts/a.txt").touch()
    with pytest.raises(DataError, match=message):
        predict(named(Pixels()), images)


def test_impossible_requests_are_usage_errors(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", 1, 2, 3, 4)
    with pytest.raises(UsageError, match=r"topk \(=0\)"):
        predict(named(Pixels()), path, topk=0)
    with pytest.raises(UsageError, match=r"batch_size \(=0\)"):
        predict(named(Pixels()), path, batch_size=0)
    with pytest.raises(UsageError, match=r"workers \(=-1\) must be at least 0"):
        predict(named(Pixels()), path, workers=-1)
    with pytest.raises(UsageError, match="No images given"):
        predict(named(Pixels()), [])
    with pytest.raises(UsageError, match="Tensor of shape"):
        predict(named(nn.Conv2d(1, 1, 1)), path)


def test_outputs_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    class Broken(Pixels):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) / (x.amax() - 1)

    write(tmp_path / "a.png", 0, 1, 2, 3)
    write(tmp_path / "b.png", 0, 1, 2, 255)
    with pytest.raises(SesurgeonError, match=r"b\.png are not finite"):
        predict(named(Broken()), tmp_path, batch_size=1, workers=0)
