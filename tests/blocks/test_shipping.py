"""What happens to modules on their way: copies, compilers, exporters."""

from __future__ import annotations

import copy

import onnxruntime
import pytest
import torch
from torch import nn
from torch.export import Dim

from sesurgeon.blocks import BlockConfig
from sesurgeon.export.capture import quiet_exporter
from tests.blocks.cases import LAYOUTS, label, tensor, trained

SHIPPED = [
    BlockConfig("se", squeeze="max", gate="hard-sigmoid"),
    BlockConfig("ese"),
    BlockConfig("eca", gate="tanh"),
    BlockConfig("cbam"),
    BlockConfig("gc"),
    BlockConfig("ge"),
    BlockConfig("ge", extent=2),
]
"""Every kind, every squeeze and every gate at least once."""

PLANAR = (2, 1)


def chain(layout: tuple[int, int]) -> nn.Module:
    """All of them, one after the other."""
    torch.manual_seed(0)
    return nn.Sequential(*(trained(config, *layout) for config in SHIPPED)).eval()


@pytest.mark.parametrize("config", SHIPPED, ids=label)
def test_a_deep_copy_is_its_own(config: BlockConfig) -> None:
    torch.manual_seed(0)
    block, x = trained(config).eval(), tensor()
    copied = copy.deepcopy(block)
    expected = block(x)
    copied.fold()
    assert torch.equal(block(x), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("training", [True, False])
def test_blocks_are_traced_by_torch_fx(training: bool, layout: tuple[int, int]) -> None:
    blocks, x = chain(layout).train(training), tensor(*layout)
    traced = torch.fx.symbolic_trace(blocks)
    torch.testing.assert_close(traced(x), blocks(x))


@pytest.mark.parametrize(
    "layout", [PLANAR, *(pytest.param(at, marks=pytest.mark.slow) for at in LAYOUTS if at != PLANAR)]
)
def test_blocks_compile_without_a_break(layout: tuple[int, int]) -> None:
    blocks, x = chain(layout), tensor(*layout)
    compiled = torch.compile(blocks, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), blocks(x))
    torch._dynamo.reset()


@pytest.mark.parametrize(
    "layout", [PLANAR, *(pytest.param(at, marks=pytest.mark.slow) for at in LAYOUTS if at != PLANAR)]
)
def test_blocks_are_exported_with_a_free_batch_and_become_onnx(layout: tuple[int, int]) -> None:
    blocks, x = chain(layout), tensor(*layout)
    with quiet_exporter():
        exported = torch.export.export(blocks, (x,), dynamic_shapes=({0: Dim("batch")},))
        program = torch.onnx.export(exported, dynamo=True, verbose=False)
    assert program is not None
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    (name,) = [value.name for value in session.get_inputs()]
    assert torch.equal(exported.module()(x), blocks(x))
    for images in (x, x[:2]):
        (got,) = session.run(None, {name: images.numpy()})
        torch.testing.assert_close(torch.from_numpy(got), blocks(images).detach(), rtol=1e-4, atol=1e-6)
