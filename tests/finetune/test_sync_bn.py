"""BatchNorm over all processes: here of one, where it is plain BatchNorm. tests/cli/test_resuming.py takes two."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
import torch.distributed
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sesurgeon.errors import UsageError
from sesurgeon.finetune.training.sync_bn import synced_batch_norm


@pytest.fixture
def group() -> Iterator[None]:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


LAYERS = {
    "2d": (lambda: nn.BatchNorm2d(3), (4, 3, 5, 5)),
    "1d": (lambda: nn.BatchNorm1d(3), (4, 3)),
    "3d": (lambda: nn.BatchNorm3d(3, momentum=None), (4, 3, 2, 2, 2)),
    "bare": (lambda: nn.BatchNorm2d(3, affine=False, track_running_stats=False), (4, 3, 5, 5)),
    "timm's": (lambda: BatchNormAct2d(3), (4, 3, 5, 5)),
}


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_of_one_process_it_is_batch_norm(name: str, training: bool) -> None:
    make, shape = LAYERS[name]
    plain = make().double().train(training)
    synced = copy.deepcopy(plain)
    for step in range(3):
        x = (torch.randn(shape, generator=torch.Generator().manual_seed(step)).double() * 3 + 2).requires_grad_()
        with synced_batch_norm():
            found = synced(x)
        expected = plain(x)
        torch.testing.assert_close(found, expected)
        seen = torch.randn_like(expected)
        ours = torch.autograd.grad(found, (x, *synced.parameters()), seen)
        torch.testing.assert_close(ours, torch.autograd.grad(expected, (x, *plain.parameters()), seen))
    torch.testing.assert_close(synced.state_dict(), plain.state_dict())


@pytest.mark.usefixtures("group")
def test_half_precision_is_computed_in_single() -> None:
    layer, x = nn.BatchNorm2d(3), torch.randn(8, 3, 9, 9).bfloat16()
    with synced_batch_norm():
        found = layer(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, nn.BatchNorm2d(3)(x), rtol=0.02, atol=0.02)


class Recomputed(nn.Module):
    """Its middle is computed once more in the backward pass, as in a DenseNet that saves memory."""

    def __init__(self) -> None:
        super().__init__()
        self.middle = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        computed: Tensor = checkpoint(self.middle, x, use_reentrant=False)
        return computed


@pytest.mark.usefixtures("group")
def test_activation_checkpointing_is_refused_in_clear_words() -> None:
    network, x = Recomputed(), torch.randn(4, 3, 5, 5)
    with synced_batch_norm(active=False):
        network(x).square().sum().backward()
    with pytest.raises(UsageError, match="activation checkpointing"), synced_batch_norm():
        network(x).square().sum().backward()
