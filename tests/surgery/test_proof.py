"""What the proof sees besides the outputs, and what it says."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from sesurgeon import VerificationError, add_se
from sesurgeon.blocks import SqueezeExcite
from sesurgeon.graph import same
from sesurgeon.surgery import Proof, blocks_of, operate
from tests.detectors import detector
from tests.networks import FunctionalResNet

SMALL = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Asking(nn.Module):
    """Asks all its layers for what a block has not."""

    def __init__(self) -> None:
        super().__init__()
        self.row = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3))

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.row(x))[:, : min(layer.weight.shape[0] for layer in self.row)]


class HoldsALambda(nn.Module):
    """A copy's lambda runs the layers of the original."""

    def __init__(self, norm: type[nn.Module]) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), norm(8), nn.ReLU(), nn.Conv2d(8, 8, 3), norm(8), nn.ReLU())
        self.run = lambda x: self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


def and_then(change: Callable[[], object]) -> Callable[[SqueezeExcite, Tensor], Tensor]:
    forward = SqueezeExcite.forward

    def changed(self: SqueezeExcite, x: Tensor) -> Tensor:
        change()
        return forward(self, x)

    return changed


def test_a_network_that_cannot_run_with_blocks_is_no_crash_but_a_failed_proof() -> None:
    model = Asking()
    with pytest.raises(VerificationError, match=r"Asking does not run in eval mode: AttributeError: .* 'weight'"):
        add_se(model, SMALL, policy="conv", inplace=True)
    assert blocks_of(model) == {}


def test_running_statistics_are_compared_too(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    count = "1.num_batches_tracked"
    monkeypatch.setattr(SqueezeExcite, "forward", and_then(lambda: model.get_buffer(count).add_(1)))
    with pytest.raises(VerificationError, match=rf"the buffers \({count}\) in eval and train mode are not the ones"):
        add_se(model, SMALL, inplace=True)


def test_so_is_the_random_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SqueezeExcite, "forward", and_then(lambda: torch.rand(1)))
    with pytest.raises(VerificationError, match="random numbers"):
        add_se(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)), SMALL, policy="conv")


def test_another_thread_may_be_why_the_random_state_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SqueezeExcite, "forward", and_then(lambda: torch.rand(1)))
    with ThreadPoolExecutor(1) as threads, pytest.raises(VerificationError, match=r"\nOther threads are running"):
        threads.submit(add_se, FunctionalResNet(), SMALL).result()


def test_a_network_that_was_changed_in_place_is_not_taken_for_a_random_one(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = itertools.count(1)
    original = SqueezeExcite.forward
    monkeypatch.setattr(SqueezeExcite, "forward", lambda self, x: original(self, x) * next(runs) * 1.001)
    with pytest.raises(VerificationError) as failure:
        add_se(FunctionalResNet(), SMALL, inplace=True)
    assert "each time" not in str(failure.value)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError])
def test_a_memory_that_is_full_proves_nothing_against_us(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill() -> None:
        raise error("full")

    monkeypatch.setattr(SqueezeExcite, "forward", and_then(fill))
    with pytest.raises(error):
        add_se(FunctionalResNet(), SMALL)


@pytest.mark.parametrize("norm", [nn.Identity, nn.BatchNorm2d])
def test_blocks_that_never_run_prove_nothing_and_the_original_stays_as_it_was(norm: type[nn.Module]) -> None:
    model = HoldsALambda(norm)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(VerificationError, match=r"(?s)2 inserted blocks never ran \(body.*inplace=True"):
        add_se(model, SMALL)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.training
    assert len(blocks_of(add_se(model, SMALL, inplace=True))) == 2


def test_the_proof_leaves_no_hook_on_the_blocks() -> None:
    for block in blocks_of(add_se(FunctionalResNet(), SMALL)).values():
        assert not block._forward_pre_hooks


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_outputs_that_are_not_finite_prove_nothing(value: float) -> None:
    model = FunctionalResNet()
    with torch.no_grad():
        model.fc.bias.fill_(value)
    with pytest.raises(VerificationError, match="All outputs of FunctionalResNet are NaN or infinite"):
        add_se(model, SMALL)
    with torch.no_grad():
        model.fc.bias[1:] = 0
    assert operate(model, example_inputs=SMALL).proof == Proof(True, True)


def test_an_output_without_numbers_beside_one_with_some_is_no_harm() -> None:
    class Masks(FunctionalResNet):
        """Gives the mask of an attention, too."""

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
            scores = super().forward(x)
            return scores, torch.full_like(scores, -torch.inf)

    assert operate(Masks(), example_inputs=SMALL).proof == Proof(True, True)


def test_statistics_that_are_not_finite_prove_nothing_though_train_mode_does_not_read_them() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    model.get_buffer("1.running_mean").fill_(torch.nan)
    with pytest.raises(VerificationError, match="All outputs of Sequential are NaN or infinite"):
        add_se(model, SMALL)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64])
def test_the_same_values_in_another_type_are_not_the_same(dtype: torch.dtype) -> None:
    values = torch.tensor([0.0, 1.0, -2.0])
    assert same({"logits": values}, {"logits": values.clone()})
    assert not same({"logits": values}, {"logits": values.to(dtype)})
    assert not same(values.to(dtype), values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float8_e5m2, torch.complex64])
def test_nan_equals_nan_and_nothing_else(dtype: torch.dtype) -> None:
    values = torch.tensor([torch.nan, torch.inf, 1.0]).to(dtype)
    assert same(values, values.clone())
    for other in ([torch.nan, torch.inf, 2.0], [0.0, torch.inf, 1.0], [torch.nan, torch.nan, 1.0]):
        assert not same(values, torch.tensor(other).to(dtype))
    if not dtype.is_complex:
        assert not same(values, torch.tensor([torch.nan, torch.finfo(dtype).max, 1.0]).to(dtype))


@pytest.mark.parametrize("kind", ["retina", "fcos", "ssd"])
def test_anchors_say_nothing_of_a_detector_whose_values_are_not_finite(kind: str) -> None:
    model = detector(kind)
    with torch.no_grad():
        model.get_parameter("backbone.0.bias").fill_(torch.nan)
    with pytest.raises(VerificationError, match="are NaN or infinite, even as it was given"):
        add_se(model)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.complex64, torch.int64])
def test_outputs_of_odd_types_are_proved(dtype: torch.dtype) -> None:
    class Converts(FunctionalResNet):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).to(dtype)

    assert operate(Converts(), example_inputs=SMALL).proof.in_eval


def test_in_train_mode_alone_they_are_noted() -> None:
    class LosesItselfInTraining(FunctionalResNet):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * (torch.nan if self.training else 1)

    proof = operate(LosesItselfInTraining(), example_inputs=SMALL).proof
    assert proof == Proof(True, None, "all outputs in train mode are NaN or infinite")


class Collecting(nn.Module):
    """Reads what a hook has collected; in a copy, the hook still writes into the original."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.seen: dict[str, Tensor] = {}
        self.body[2].register_forward_hook(lambda module, inputs, output: self.seen.update(last=output))

    def forward(self, x: Tensor) -> Tensor:
        self.body(x)
        return self.seen["last"].mean((2, 3))


@pytest.mark.parametrize("ran", [False, True])
def test_a_network_that_does_not_work_in_a_copy_is_told_of_and_can_be_changed_in_place(ran: bool) -> None:
    model, images = Collecting(), torch.randn(2, 3, 8, 8)
    if ran:
        model(images)
    with pytest.raises(VerificationError, match=r"A deep copy of the network does not .*inplace=True") as failure:
        add_se(model, images)
    assert failure.value.hint is None  # no bug to report
    assert blocks_of(add_se(model, images, inplace=True))
