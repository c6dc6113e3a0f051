from __future__ import annotations

from collections import defaultdict, deque
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sesurgeon.errors import UntraceableError
from sesurgeon.graph.tracing.codegen import compile_graph
from sesurgeon.graph.tracing.fidelity import same, unfaithful
from sesurgeon.graph.tracing.local_graphs import LocalGraphs, trace_local_graphs
from tests.networks import DropConnectBlock, FunctionalResNet, Inception, OddNet, ResidualBlock


class Around(nn.Module):
    """Gives the module under test a parent that calls it in a certain way."""

    def __init__(self, inner: nn.Module, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.inner, self.args, self.kwargs = inner, args, kwargs

    def forward(self, x: Tensor) -> Any:
        return self.inner(x, *self.args, **self.kwargs)


def traced(
    module: nn.Module, *args: Any, training: bool = False, x: Tensor | None = None, **kwargs: Any
) -> LocalGraphs:
    x = torch.randn(2, 8, 6, 6) if x is None else x
    return trace_local_graphs(Around(module, *args, **kwargs), (x,), training=training)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("make", [OddNet, FunctionalResNet])
def test_every_local_graph_repeats_its_module_bit_for_bit(make: type[nn.Module], training: bool) -> None:
    inputs = (torch.randn(2, 3, 17, 17),)
    graphs = trace_local_graphs(make(), inputs, training=training)
    assert graphs.unfollowed == {}
    assert "" in graphs.graphs
    assert unfaithful(graphs, set(graphs.graphs)) == {}


def test_a_wrong_graph_is_found_out() -> None:
    inputs = (torch.randn(2, 8, 6, 6),)
    graphs = trace_local_graphs(ResidualBlock(8), inputs, training=False)
    add = next(node for node in graphs.graphs[""].nodes if "add" in node.name)
    add.args = (add.args[0], add.args[0])
    assert "other values" in unfaithful(graphs, {""})[""]


@pytest.mark.parametrize(("module", "args", "kwargs"), [
    (ResidualBlock(8), (), {}),
    (ResidualBlock(8), (None,), {}),
    (ResidualBlock(8), (), {"shortcut": None}),
    (DropConnectBlock(8), (0.5,), {}),
    (DropConnectBlock(8), (), {"rate": 0.0}),
    (DropConnectBlock(8), (), {}),
    (Inception(8), (), {}),
])  # fmt: skip
@pytest.mark.parametrize("training", [False, True])
def test_optional_arguments_keep_the_pattern_of_the_call(
    module: nn.Module, args: Any, kwargs: Any, training: bool
) -> None:
    graphs = traced(module, *args, training=training, **kwargs)
    forward = compile_graph(graphs.graphs["inner"], "test")
    x = torch.randn(3, 8, 10, 10)
    module.train(training)
    torch.manual_seed(1)
    expected = module(x.clone(), *args, **kwargs)
    module.load_state_dict(module.state_dict())
    torch.manual_seed(1)
    assert same(forward(module, x.clone(), *args, **kwargs), expected)


def test_another_pattern_than_the_traced_one_is_refused_not_ignored() -> None:
    forward = compile_graph(traced(ResidualBlock(8), None).graphs["inner"], "test")
    x = torch.randn(2, 8, 6, 6)
    with pytest.raises(UntraceableError, match="'shortcut' was None when the blocks were inserted"):
        forward(ResidualBlock(8).eval(), x, x)


def test_a_branch_on_a_shape_is_guarded() -> None:
    graphs = trace_local_graphs(OddNet(), (torch.randn(2, 3, 16, 16),), training=False)
    forward = compile_graph(graphs.graphs[""], "test")
    model = OddNet().eval()
    x = torch.randn(1, 3, 32, 48)
    assert torch.equal(forward(model, x), model(x))
    with pytest.raises(UntraceableError, match="the forward goes by"):
        forward(model, torch.randn(1, 3, 17, 17))


def test_train_and_eval_have_graphs_of_their_own() -> None:
    in_eval, in_train = (traced(ResidualBlock(8), training=training).graphs["inner"] for training in (False, True))
    dropout = [
        node.kwargs["training"] for graph in (in_eval, in_train) for node in graph.nodes if node.name == "dropout"
    ]
    assert dropout == [False, True]


def test_the_callers_module_is_left_as_it_was() -> None:
    model = OddNet().train()
    model.shared.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attributes = {path: set(vars(module)) for path, module in model.named_modules()}
    torch.manual_seed(5)
    state = torch.get_rng_state()
    trace_local_graphs(model, (torch.randn(2, 3, 16, 16, generator=torch.Generator()),), training=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {path: set(vars(module)) for path, module in model.named_modules()} == attributes
    assert model.training
    assert not model.shared.training
    assert not model.shared.bn1.training


class Remembers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x
        return self.conv(x)


class UnderNoGrad(Remembers):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.conv(x)


class UnderAutocast(Remembers):
    """As timm's LiteMLA; a graph that knew the name would be one for that kind of device."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(device_type=x.device.type, enabled=False):
            return self.conv(x)


class ByValue(Remembers):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if x.sum() > 0 else x


class StrayTensor(Remembers):
    def __init__(self) -> None:
        super().__init__()
        self.scale = [torch.ones(1)]

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * self.scale[0]


class Queues(Remembers):
    """Keeps the last ones that it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.last: deque[Tensor] = deque(maxlen=2)
        self.by_size: defaultdict[int, list[Tensor]] = defaultdict(list)

    def forward(self, x: Tensor) -> Tensor:
        self.last.append(x)
        self.by_size[len(x)].append(x)
        return self.conv(x)


class ByChance(Remembers):
    """Stochastic depth in Python."""

    def forward(self, x: Tensor) -> Tensor:
        return x if torch.rand(1).item() < -1 else self.conv(x)


class ByGradients(Remembers):
    """As networks that compute activations again on the way back, where there will be one."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.utils.checkpoint.checkpoint(self.conv, x) if x.requires_grad else self.conv(x)


@pytest.mark.parametrize(("make", "reason"), [
    (Remembers, "sets attributes of its own"),
    (UnderNoGrad, "runs under no_grad"),
    (UnderAutocast, "runs under autocast"),
    (ByValue, "depends on the values in a tensor"),
    (ByChance, "goes by the values in a tensor"),
    (StrayTensor, "neither parameter nor buffer"),
    (Queues, "sets attributes of its own"),
    (ByGradients, "asks whether a tensor needs gradients"),
])  # fmt: skip
def test_what_a_graph_would_lose_is_a_reason_not_to_follow(make: type[nn.Module], reason: str) -> None:
    module = make()
    graphs = traced(module)
    assert "inner" not in graphs.graphs
    assert reason in graphs.unfollowed["inner"]
    if isinstance(module, Remembers) and hasattr(module, "seen"):
        assert isinstance(module.seen, Tensor)  # the true forward's, not a proxy of ours
    if isinstance(module, Queues):
        assert (len(module.last), module.last.maxlen, dict(module.by_size)) == (0, 2, {})


def test_one_module_called_with_different_patterns_is_not_followed() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = ResidualBlock(8)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(self.inner(x), x)

    graphs = trace_local_graphs(Twice(), (torch.randn(2, 8, 6, 6),), training=False)
    assert "different optional arguments" in graphs.unfollowed["inner"]


class Uses(nn.Module):
    """Reads shapes, lengths, types; makes tensors by shape; unpacks; loops."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)
        self.register_buffer("offset", torch.arange(8.0).view(1, 8, 1, 1))
        self.gamma = nn.Parameter(torch.rand(8, 1, 1))

    def forward(self, x: Tensor | list[Tensor]) -> Tensor:
        x = x[0] if isinstance(x, (list, tuple)) else x
        batch, channels, height, width = x.shape
        y = self.conv(x) * self.gamma + self.offset
        for index in range(len(x.shape) - 2):
            y = y + index
        y = y + torch.arange(width, device=x.device) + torch.zeros(batch, 1, 1, 1)
        y = y.view(batch, channels // 2, 2, height, width).transpose(1, 2).reshape(x.size(0), -1, height, width)
        return F.interpolate(y, size=(int(height), width)) if x.dim() == 4 else y


def test_pythons_questions_about_tensors_are_answered() -> None:
    module = Uses()
    graphs = traced(module)
    forward = compile_graph(graphs.graphs["inner"], "test")
    x = torch.randn(5, 8, 6, 9)
    assert torch.equal(forward(module, x), module(x))
