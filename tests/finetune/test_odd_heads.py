"""Networks whose head is not the last of their layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from finetune_nets import HeadFirst
from torch import Tensor, nn

from sesurgeon.finetune import FinetuneConfig, finetune
from sesurgeon.models import Preprocessing
from sesurgeon.models.provenance import Provenance, attach_provenance, provenance_of
from sesurgeon.models.sources.source import Source
from sesurgeon.surgery import add_se, apply_adapter, extract_adapter, load

SOURCES = {"embedded": Source("module"), "named": Source("factory", "finetune_nets:HeadFirst")}


@pytest.fixture(params=[*SOURCES, "loaded"])
def base(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    if request.param == "loaded":
        return load(SOURCES["named"])
    model = HeadFirst()
    attach_provenance(model, Provenance(SOURCES[request.param]))
    return model.eval()


@pytest.mark.parametrize("blocks", [False, True])
def test_a_head_that_is_declared_first_is_replaced_and_the_checkpoint_loads(
    base: nn.Module, blocks: bool, split_folder: Path, config: FinetuneConfig
) -> None:
    model = add_se(base, example_inputs=torch.zeros(1, 1, 8, 8)) if blocks else base
    result = finetune(model, split_folder, config)
    assert result.task.head == "fc"
    assert [tuple(model.get_parameter(f"{name}.weight").shape) for name in ("fc", "mix")] == [(2, 8), (8, 8, 1, 1)]
    loaded = load(result.last, trust_pickle=True)
    assert provenance_of(loaded).source == provenance_of(base).source
    again = loaded.state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("classes", [2, 5])
def test_its_adapter_comes_back_with_a_new_head_and_with_the_old_one(
    base: nn.Module, classes: int, tmp_path: Path, fill: Callable[..., Path], config: FinetuneConfig
) -> None:
    images = torch.rand(2, 1, 8, 8)
    for name in "abcde"[:classes]:
        fill(tmp_path / "data", (name,), 8)
    model = add_se(base, example_inputs=images)
    result = finetune(model, tmp_path / "data", replace(config, train="blocks", val_split=0.25))
    assert (result.task.head is None) == (classes == 5)
    extract_adapter(model, tmp_path / "a.adapter.safetensors")
    again = apply_adapter(base, tmp_path / "a.adapter.safetensors")
    assert torch.equal(again(images), model.eval()(images))


def test_all_parts_of_a_new_head_are_trained_and_nothing_else(
    split_folder: Path, tmp_path: Path, config: FinetuneConfig
) -> None:
    """RepViT has a second head, which is gone when the first is made anew; there is a norm before each."""
    base = timm.create_model("repvit_m0_9", in_chans=1).eval()
    preprocessing = Preprocessing((1, 64, 64), (0.5,), (0.5,))
    attach_provenance(base, Provenance(Source("module"), preprocessing=preprocessing))
    model = add_se(base, torch.rand(2, 1, 64, 64))
    result = finetune(model, split_folder, replace(config, train="blocks"))
    assert result.task.new >= {"head"}
    assert not any(module.training for module in model.modules())
    before, after = base.state_dict(), model.state_dict()
    for name in ("head.head.bn.weight", "head.head.bn.running_mean"):  # untrained in both, but for this run
        assert not torch.equal(before[name], after[name])
    body = [name for name in before if not name.startswith("head.")]
    assert all(torch.equal(before[name], after[name]) for name in body)
    extract_adapter(model, tmp_path / "a.adapter.safetensors", base=base)
    images = torch.rand(2, 1, 64, 64)
    assert torch.equal(apply_adapter(base, tmp_path / "a.adapter.safetensors")(images), model(images))


class AlwaysTwo(nn.Module):
    """Gives a tuple in eval mode, too, and ends in a convolution that is no layer of size 1."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.last = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 2, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.stem(x).relu()
        return self.last(features).mean((2, 3)), features


@pytest.mark.parametrize("choice", [{"distill": 0.5}, {"layer_decay": 0.8}])
def test_a_network_without_a_head_that_could_be_replaced_is_trained(
    choice: dict[str, Any], split_folder: Path, config: FinetuneConfig
) -> None:
    model = add_se(AlwaysTwo(), torch.rand(2, 1, 8, 8), policy="conv")
    before = model.last.weight.clone()
    finetune(model, split_folder, replace(config, epochs=2, **choice))
    assert not torch.equal(model.last.weight, before)
