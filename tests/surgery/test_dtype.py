"""Blocks are of the kind of the tensors that they scale."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from sesurgeon import add_se, apply_plan, load, make_plan, save
from sesurgeon.models import Provenance, Source, attach_provenance
from sesurgeon.surgery import blocks_of
from tests.networks import FunctionalResNet, ResidualBlock

SMALL = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Mixed(nn.Module):
    """Convolutions in double precision, everything around them in single."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.conv = nn.Conv2d(8, 8, 3, 1, 1).double()
        self.host = ResidualBlock(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.host(self.stem(x)).double()
        return torch.relu(self.conv(x)) + x


def test_the_blocks_take_the_dtype_of_the_sites_tensor() -> None:
    augmented = add_se(Mixed(), example_inputs=SMALL)
    dtypes = {path: {p.dtype for p in block.parameters()} for path, block in blocks_of(augmented).items()}
    assert dtypes == {"se": {torch.float64}, "host.se": {torch.float32}}
    assert augmented(SMALL).dtype == torch.float64


class UnderItsOwnAutocast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), ResidualBlock(8), nn.Conv2d(8, 8, 3), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.net(x).float()


@pytest.mark.parametrize("policy", ["standard", "conv"])
def test_under_the_networks_own_autocast_the_blocks_are_of_the_dtype_of_its_weights(policy: str) -> None:
    augmented = add_se(UnderItsOwnAutocast(), SMALL, policy=policy)
    assert len(blocks_of(augmented)) > 0
    assert {parameter.dtype for parameter in augmented.parameters()} == {torch.float32}


def test_so_they_are_under_that_of_the_caller() -> None:
    model = FunctionalResNet()
    plan = make_plan(model, SMALL)
    with torch.autocast("cpu", torch.bfloat16):
        for augmented in (add_se(model, SMALL), apply_plan(model, plan)):
            assert {parameter.dtype for parameter in augmented.parameters()} == {torch.float32}
            assert torch.is_autocast_enabled("cpu")
    assert torch.equal(augmented.eval()(SMALL), model.eval()(SMALL))


@pytest.mark.parametrize("halved", ["", "layer4"])
def test_a_network_that_runs_only_under_the_callers_autocast_gets_blocks_of_its_dtypes(halved: str) -> None:
    model = timm.create_model("test_resnet").eval()
    model.get_submodule(halved).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        augmented = add_se(model, SMALL)
        assert torch.equal(augmented(SMALL), model(SMALL))
    for path, block in blocks_of(augmented).items():
        wanted = torch.bfloat16 if path.startswith(halved) else torch.float32
        assert {parameter.dtype for parameter in block.parameters()} == {wanted}


@pytest.mark.parametrize("source", [Source("module"), Source("timm", "test_resnet")], ids=lambda source: source.kind)
@pytest.mark.parametrize(
    "types", [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32), (torch.float16, torch.float16)]
)
def test_a_network_that_was_converted_after_surgery_loads(
    source: Source, types: tuple[torch.dtype, torch.dtype], tmp_path: Path
) -> None:
    before, after = types
    base = timm.create_model("test_resnet").to(before)
    attach_provenance(base, Provenance(source))
    augmented = add_se(base, example_inputs=SMALL.to(before)).to(after)
    save(augmented, tmp_path / "net.se.pt")
    again = load(tmp_path / "net.se.pt").state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in augmented.state_dict().items())
    assert again["layer1.0.se.fc1.weight"].dtype == after
