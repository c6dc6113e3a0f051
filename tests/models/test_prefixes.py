"""State dicts in which the network lies under a prefix, perhaps beside other weights."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from sesurgeon.errors import UsageError
from sesurgeon.models import Source, find_weights, fit
from tests.networks import assert_same_weights

SHUFFLENET = Source("torchvision", "shufflenet_v2_x0_5")


def under(prefix, module):
    return {f"{prefix}{name}": tensor for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("prefix", ["model.", "net.backbone."])
def test_weights_of_losses_and_metrics_are_left_out(tiny, prefix):
    beside = {"criterion.weight": torch.ones(5), "val_metrics.total": torch.ones(1), "loss_scale": torch.ones(1),
              "train_acc.hits": torch.ones(1), "cross_entropy.weight": torch.ones(7)}  # fmt: skip
    assert_same_weights(fit(SHUFFLENET, {**beside, **under(prefix, tiny)}), tiny)


def test_a_loss_may_lie_within_the_same_prefix(tiny):
    assert_same_weights(fit(SHUFFLENET, {**under("model.net.", tiny), "model.criterion.weight": torch.ones(5)}), tiny)


@pytest.mark.parametrize(
    "name", ["head.weight", "normalize.mean", "se.fc1.weight", "glossy.weight", "head.loss.weight"]
)
def test_what_else_is_beside_a_network_may_belong_to_it(tiny, name):
    with pytest.raises(UsageError, match=f"holds ShuffleNetV2 under net, and {name} beside it"):
        fit(SHUFFLENET, {name: torch.ones(3), **under("net.", tiny)})


def test_parts_of_another_network_are_not_taken_for_a_small_one():
    own = nn.Sequential(nn.Flatten(), nn.Linear(8, 8))
    source = Source("factory", f"{__name__}:small")
    assert_same_weights(fit(source, under("fc1.", own)), own)
    with pytest.raises(UsageError, match=r"under fc1, and norm\.weight, fc2\.weight beside it"):
        fit(source, {**under("fc1.", own), "norm.weight": torch.ones(8), "fc2.weight": torch.ones(3, 8)})


def small() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(8, 8))


@pytest.mark.parametrize("wrapper", ["", "module."])
@pytest.mark.parametrize("second", ["ema.", "ema.model."])
def test_a_network_that_is_there_twice_is_refused(tiny, wrapper, second):
    raw = {**under(f"{wrapper}model.", tiny), **under(f"{wrapper}{second}", tiny)}
    message = rf"net\.ckpt holds ShuffleNetV2 under model and {second.rstrip('.')}: which is meant"
    with pytest.raises(UsageError, match=message):
        fit(SHUFFLENET, find_weights(raw, "net.ckpt").weights, origin="net.ckpt")


class Probe(nn.Module):
    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, bias=False), nn.Linear(4, num_classes)


@pytest.mark.parametrize("prefix", ["model.", "model._orig_mod.", "module.model."])
def test_a_small_network_of_another_number_of_classes_is_found(prefix):
    expected = Probe(5)
    found = find_weights({**under(prefix, expected), "criterion.weight": torch.ones(5)}, "net.ckpt")
    weights = {name.removeprefix("module."): tensor for name, tensor in found.weights.items()}
    assert_same_weights(fit(Source("factory", f"{__name__}:Probe"), weights), expected)


def test_a_teacher_of_other_shapes_is_told_from_its_student(tiny):
    teacher = torchvision.models.shufflenet_v2_x1_0(num_classes=5)
    with pytest.raises(UsageError, match="ShuffleNetV2 under student, and teacher"):
        fit(SHUFFLENET, {**under("teacher.", teacher), **under("student.", tiny)})


def test_another_head_under_a_prefix_is_told(tiny):
    state = {name: tensor for name, tensor in under("model.", tiny).items() if not name.startswith("model.fc.")}
    with pytest.raises(
        UsageError, match=r"2 missing \(fc\.weight, fc\.bias\); 1 unexpected \(fc\.1\.weight\)"
    ) as caught:
        fit(SHUFFLENET, {**state, "model.fc.1.weight": torch.ones(5, 1024), "criterion.weight": torch.ones(5)})
    assert caught.value.hint.startswith("Only the head (fc) is another")
