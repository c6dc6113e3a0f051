"""The networks that people have. All of them with ``pytest -m slow``; a few of different kinds in every run."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from sesurgeon import NoSiteError, remove_se
from sesurgeon.blocks import BlockConfig
from sesurgeon.graph import same
from sesurgeon.surgery import blocks_of, operate
from tests.networks import trained_like

# name, blocks of the standard policy, side of the images
EVERY_RUN = [("torchvision:mobilenet_v2", 17, 64), ("torchvision:googlenet", 9, 64), ("timm:dla34", 12, 64)]
SWEEP = [
    ("torchvision:resnet18", 8, 224),
    ("torchvision:resnet50", 16, 224),
    ("torchvision:mobilenet_v2", 17, 224),
    ("torchvision:vgg16_bn", 13, 224),
    ("torchvision:inception_v3", 11, 299),
    ("torchvision:densenet121", 4, 224),
    ("torchvision:shufflenet_v2_x1_0", 16, 224),
    ("torchvision:googlenet", 9, 224),
    ("timm:resnet50", 16, 224),
    ("timm:regnetx_002", 13, 224),
    ("timm:convnext_tiny", 18, 224),
    ("timm:dla34", 12, 224),
    ("timm:hrnet_w18_small", 23, 224),
    ("timm:rexnet_100", 3, 224),
    ("timm:ghostnet_100", 9, 224),
    ("timm:efficientnet_lite0", 15, 224),
]


def make(name: str) -> nn.Module:
    library, _, architecture = name.partition(":")
    if library == "timm":
        return timm.create_model(architecture)
    options = {"init_weights": False} if architecture in ("googlenet", "inception_v3") else {}
    return torchvision.models.get_model(architecture, **options)


@pytest.mark.parametrize(
    ("name", "blocks", "side"), EVERY_RUN + [pytest.param(*row, marks=pytest.mark.slow) for row in SWEEP]
)
def test_add_se_on(name: str, blocks: int, side: int) -> None:
    torch.manual_seed(0)
    model = trained_like(make(name))
    keys = list(model.state_dict())
    images = torch.randn(2, 3, side, side)
    surgery = operate(model, BlockConfig(), example_inputs=images)
    augmented = surgery.model

    assert (surgery.proof.in_eval, surgery.proof.in_train) == (True, True)
    for training in (False, True):  # the proof's claim, checked by other code, on other images
        outputs = []
        for network in (model, augmented):
            torch.manual_seed(1)
            outputs.append(copy.deepcopy(network).train(training)(images.flip(0)))
        assert same(*outputs)
    assert len(blocks_of(augmented)) == len(surgery.plan.entries) == blocks
    assert [key for key in augmented.state_dict() if key in set(keys)] == keys
    assert isinstance(augmented, type(model))
    assert list(remove_se(augmented).state_dict()) == keys
    assert dead_blocks(augmented.train(), images) == []


def dead_blocks(augmented: nn.Module, images: Tensor) -> list[str]:
    """Blocks some of whose parameters have no gradient in the second step."""
    new = [p for block in blocks_of(augmented).values() for p in block.parameters()]
    optimizer = torch.optim.SGD(new, lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        outputs = [leaf for leaf in tree_leaves(augmented(images)) if isinstance(leaf, Tensor)]
        sum((output * torch.randn_like(output)).sum() for output in outputs).backward()
        optimizer.step()
    return [
        path
        for path, block in blocks_of(augmented).items()
        if not all(p.grad is not None and p.grad.any() for p in block.parameters())
    ]


def test_a_network_with_attention_everywhere_is_told_so() -> None:
    with pytest.raises(NoSiteError, match="all 16 have attention already"):
        operate(torchvision.models.efficientnet_b0(), BlockConfig(), example_inputs=torch.randn(2, 3, 64, 64))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "attention", "added"), [
    ("resnet18", "seresnet18", 90_112),
    ("resnet34", "seresnet34", 162_744),
    ("resnet50", "seresnet50", 2_530_992),
    ("resnext50_32x4d", "seresnext50_32x4d", 2_530_992),
])  # fmt: skip
def test_random_init_is_timms_se_network_to_the_last_bit(name: str, attention: str, added: int) -> None:
    theirs = trained_like(timm.create_model(attention)).eval()
    plain = timm.create_model(name)
    ours = operate(plain, BlockConfig(init="random")).model.eval()
    assert {key: value.shape for key, value in ours.state_dict().items()} == {
        key: value.shape for key, value in theirs.state_dict().items()
    }
    assert sum(p.numel() for p in ours.parameters()) - sum(p.numel() for p in plain.parameters()) == added
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images = torch.randn(2, 3, 224, 224)
    assert torch.equal(ours(images), theirs(images))
