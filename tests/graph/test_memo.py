"""A layer that is asked again for the same bits does not compute them again; for anything else it does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sesurgeon.graph.tracing import memo as under_test
from sesurgeon.graph.tracing.fidelity import unfaithful
from sesurgeon.graph.tracing.local_graphs import trace_local_graphs
from sesurgeon.graph.tracing.memo import LayerMemo, is_pure
from tests.networks import ResidualBlock

X = torch.randn(2, 3, 6, 6)


class Counting:
    """In the place of ``nn.Module.__call__``."""

    def __init__(self) -> None:
        self.calls: list[nn.Module] = []

    def __call__(self, module: nn.Module, *args: Any) -> Any:
        self.calls.append(module)
        with torch.no_grad():
            return module(*args)


def test_the_same_bits_are_computed_once_and_given_as_copies() -> None:
    run, conv = Counting(), nn.Conv2d(3, 4, 3)
    memo = LayerMemo(run)
    expected = memo(conv, X)
    memo(conv, X.clone()).zero_()
    again = memo(conv, X.clone())
    assert torch.equal(again, expected)
    assert run.calls == [conv]


@pytest.mark.parametrize("written", ["input", "output"])
def test_what_was_written_into_since_is_computed_again(written: str) -> None:
    run, conv = Counting(), nn.Conv2d(3, 4, 3)
    memo = LayerMemo(run)
    x = X.clone()
    output = memo(conv, x)
    expected = output.clone()
    (x if written == "input" else output).detach()[0].zero_()  # through a view
    assert torch.equal(memo(conv, X.clone()), expected)
    assert run.calls == [conv, conv]


def test_tensors_that_do_not_count_what_is_written_into_them_are_not_kept() -> None:
    run, conv = Counting(), nn.Conv2d(3, 4, 3)
    memo = LayerMemo(run)
    with torch.inference_mode():
        assert torch.equal(memo(conv, X.clone()), memo(conv, X.clone()))
    assert run.calls == [conv, conv]


def test_anything_else_is_computed() -> None:
    run, conv, other = Counting(), nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
    memo = LayerMemo(run)
    asked = [(conv, X), (other, X), (conv, X + 1), (conv, X[:1]), (conv, X.to(memory_format=torch.channels_last))]
    outputs = [memo(module, x) for module, x in asked]
    assert run.calls == [module for module, _ in asked]
    assert all(torch.equal(output, module(x)) for output, (module, x) in zip(outputs, asked, strict=True))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert memo(conv, X).dtype == torch.bfloat16
    assert len(run.calls) == len(asked) + 1


def test_what_comes_first_is_kept_until_all_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    run, first, second = Counting(), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
    monkeypatch.setattr(under_test, "_LIMIT", 2 * X.nbytes)
    memo = LayerMemo(run)
    for module in (first, second, second, first):
        memo(module, X)
    assert run.calls == [first, second, second]
    memo.forget()
    memo(second, X)
    memo(second, X)
    assert run.calls == [first, second, second, second]


class Own(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * torch.rand(1)


def test_only_plain_layers_are_taken_for_functions() -> None:
    hooked, normed, patched = (nn.Conv2d(3, 4, 1) for _ in range(3))
    hooked.register_forward_hook(lambda *_: None)
    nn.utils.parametrizations.spectral_norm(normed)
    patched.__dict__["forward"] = torch.relu
    assert not any(map(is_pure, (hooked, normed, patched, Own(3, 4, 1), nn.BatchNorm2d(3), nn.Dropout())))
    assert all(map(is_pure, (nn.Conv2d(3, 4, 1), nn.Linear(3, 4))))


@pytest.mark.parametrize("training", [False, True])
def test_a_network_is_checked_with_each_convolution_computed_once(
    training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, inputs = nn.Sequential(ResidualBlock(3), ResidualBlock(3)), (X,)
    graphs = trace_local_graphs(model, inputs, training=training)
    computed: list[nn.Module] = []
    forward = nn.Conv2d.forward

    def compute(conv: nn.Conv2d, x: Tensor) -> Tensor:
        computed.append(conv)
        return forward(conv, x)

    monkeypatch.setattr(nn.Conv2d, "forward", compute)
    assert unfaithful(graphs, set(graphs.graphs)) == {}
    assert computed == [module for module in model.modules() if isinstance(module, nn.Conv2d)]
