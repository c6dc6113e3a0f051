"""A network takes the memory of a file's tensors instead of copying them, where nobody can tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import sesurgeon
from sesurgeon.models import Source, read
from sesurgeon.models.adopt import adopt


def memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def adopted(model: nn.Module, state: dict[str, Tensor]) -> set[str]:
    """Names of the weights of ``model`` that are where ``state`` has them now; the others must be left to copy."""
    left = adopt(model, state)
    own = model.state_dict()
    taken = {name for name in own if name in state and memory(own[name]) == memory(state[name])}
    assert set(left) == set(state) - taken
    return taken


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_parameters_and_buffers_stay_the_objects_that_they_are() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    model[0].bias.requires_grad_(False)
    model.held = [model[0].weight]  # seen by no module
    before = list(model.parameters())
    state = state_of(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))
    assert adopted(model, state) == set(state)
    assert all(now is then for now, then in zip(model.parameters(), before, strict=True))
    assert model.held[0] is model[0].weight
    assert torch.equal(model[0].weight, state["0.weight"])
    assert [parameter.requires_grad for parameter in model.parameters()] == [True, False, True, True]


@pytest.mark.parametrize(
    "change",
    [
        lambda tensor: tensor.half(),
        lambda tensor: tensor.to(memory_format=torch.channels_last),
        lambda tensor: torch.stack([tensor, tensor])[1],  # half of a memory
        lambda tensor: tensor[:1].expand(tensor.shape),
    ],
    ids=["dtype", "layout", "a part", "expanded"],
)
def test_tensors_that_look_otherwise_are_left_to_copy(change: Any) -> None:
    conv = nn.Conv2d(3, 4, 2)
    state = state_of(conv)
    state["weight"] = change(state["weight"])
    assert adopted(conv, state) == {"bias"}
    assert conv.weight.dtype == torch.float32


def test_what_is_tied_in_the_file_alone_is_not_tied_in_the_model() -> None:
    pair = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    state = state_of(pair)
    state["1.weight"] = state["0.weight"].view(3, 3)
    assert adopted(pair, state) == {"0.bias", "1.bias"}


def test_what_is_tied_in_the_model_stays_tied() -> None:
    pair = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    pair[1].weight = pair[0].weight
    state = state_of(pair)
    pair.load_state_dict(adopt(pair, state), strict=False)
    assert pair[1].weight is pair[0].weight
    assert torch.equal(pair[1].weight, state["1.weight"])
    views = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    views[1].weight = nn.Parameter(views[0].weight.detach())
    assert adopted(views, state) == {"0.bias", "1.bias"}


class Doubling(nn.Linear):
    """Its files hold half of the weight."""

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        super()._load_from_state_dict(state | {f"{prefix}weight": 2 * state[f"{prefix}weight"]}, prefix, *rest)


def test_a_module_that_loads_in_its_own_way_does_so() -> None:
    hooked = nn.Sequential(nn.Linear(2, 2))
    hooked.register_load_state_dict_pre_hook(lambda module, state, *_: state.update({"0.bias": torch.ones(2)}))
    model = nn.Sequential(Doubling(2, 2), hooked, nn.Linear(2, 2))
    state = state_of(model)
    assert adopted(model, state) == {"2.weight", "2.bias"}


@pytest.fixture
def weights(tmp_path: Path, tiny: nn.Module) -> dict[str, Path]:
    files = {suffix: tmp_path / f"net.{suffix}" for suffix in ("pt", "safetensors")}
    torch.save(tiny.state_dict(), files["pt"])
    save_file(tiny.state_dict(), files["safetensors"])
    return files


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_mapped_weights_do_not_write_into_their_file(suffix: str, weights: dict[str, Path], tiny: nn.Module) -> None:
    path = weights[suffix]
    before = path.read_bytes()
    model = sesurgeon.load(path, arch=Source("torchvision", "shufflenet_v2_x0_5"), mapped=True)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.add_(1)
    assert path.read_bytes() == before
    assert torch.equal(model.fc.weight, tiny.fc.weight + 1)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_without_mapping_a_file_can_be_written_over(suffix: str, weights: dict[str, Path], tiny: nn.Module) -> None:
    path = weights[suffix]
    model = sesurgeon.load(path, arch=Source("torchvision", "shufflenet_v2_x0_5"))
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert torch.equal(model.fc.weight, tiny.fc.weight)


def test_a_file_from_before_maps_could_be_made_is_read(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for trust in (False, True):
        assert torch.equal(read(tmp_path / "old.pt", mapped=True, trust_pickle=trust)["weight"], torch.ones(2))
