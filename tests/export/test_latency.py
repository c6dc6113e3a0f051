"""What is timed, in which order, and what is made of the times; never how long anything takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sesurgeon.errors import UsageError
from sesurgeon.export import LatencyRatio, measure_latency
from sesurgeon.export.cost import latency
from sesurgeon.export.cost.runtimes import Runner
from sesurgeon.export.sessions import open_session

IMAGES = torch.randn(3, 3, 8, 8)


class Net(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Guessing(Net):
    """Goes where the values lead, which no exporter follows; and draws random numbers."""

    def forward(self, x: Tensor) -> Tensor:
        x = x + torch.rand(1)
        return super().forward(x if x.sum() > 0 else -x)


class Refusing(Net):
    def forward(self, x: Tensor) -> Tensor:
        if len(x) == 1:
            raise ValueError("one image is no batch\nand more")
        return super().forward(x)


class Clock:
    """Stands still, but while something runs."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_two_run_in_turn_and_take_turns_in_going_first(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, ran, told = Clock(), [], []
    monkeypatch.setattr(latency, "perf_counter", clock)

    def runner(name: str, seconds: float) -> Runner:
        def run(arguments: tuple[str]) -> None:
            ran.append(name + arguments[0])
            clock.now += seconds

        return run

    pairs = latency.time_pairs(
        runner("base", 2.0),
        runner("augmented", 3.0),
        ("!",),
        3,
        names=latency.NAMES,
        after_each=lambda *done: told.append(done),
    )

    assert pairs == [(2.0, 3.0)] * 3
    assert told == [(1, 3), (2, 3), (3, 3)]
    straight, crossed = ["base!", "augmented!"], ["augmented!", "base!"]
    assert ran == [*crossed, *straight, *crossed, *straight, *crossed, *straight]  # three pairs to warm up, three timed


def test_each_run_gets_the_images_as_they_were() -> None:
    seen = []

    def spoil(arguments: tuple[Tensor]) -> None:
        seen.append(float(arguments[0].sum()))
        arguments[0].zero_()

    latency.time_pairs(spoil, spoil, (torch.ones(3),), 2, names=latency.NAMES, after_each=lambda done, of: None)
    assert set(seen) == {3.0}


def test_medians_their_ratio_and_the_quartiles_of_the_pairs_ratios() -> None:
    # ratios of the pairs: 1, 2, 3, 4, 5; a quarter of the way from 1 to 5 is 2, three quarters is 4
    pairs = [(2.0, 2.0), (1.0, 2.0), (1.0, 3.0), (2.0, 8.0), (3.0, 15.0)]
    assert latency.summary("torch", 8, pairs) == LatencyRatio("torch", 8, 2000.0, 3000.0, 3.0, (2.0, 4.0))


def test_both_runtimes_at_batch_one_and_at_the_given_batch() -> None:
    told = []
    measured = measure_latency(Net(), Net(), IMAGES, repeats=2, progress=lambda *event: told.append(event))
    assert [(entry.runtime, entry.batch) for entry in measured] == [
        ("torch", 1), ("torch", 3), ("onnxruntime", 1), ("onnxruntime", 3),
    ]  # fmt: skip
    for entry in measured:
        assert entry.failure is None
        assert entry.base_ms > 0
        assert entry.augmented_ms > 0
        assert 0 < entry.quartiles[0] <= entry.ratio <= entry.quartiles[1]
    assert told[:4] == [
        ("torch, batch 1", 1, 2),
        ("torch, batch 1", 2, 2),
        ("torch, batch 3", 1, 2),
        ("torch, batch 3", 2, 2),
    ]
    assert len(told) == 8


def test_onnxruntime_has_as_many_threads_as_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []

    def open_one(path: Path, *, threads: int) -> Any:
        opened.append(open_session(path, threads=threads))
        return opened[-1]

    monkeypatch.setattr("sesurgeon.export.cost.runtimes.open_session", open_one)
    measure_latency(Net(), Net(), IMAGES, batches=(1,), repeats=2, runtimes=["onnxruntime"])
    assert [one.get_session_options().intra_op_num_threads for one in opened] == [torch.get_num_threads()] * 2


def test_one_image_is_measured_once() -> None:
    measured = measure_latency(Net(), Net(), (IMAGES[:1],), repeats=2, runtimes=["torch"])
    assert [entry.batch for entry in measured] == [1]


def test_the_networks_and_the_random_state_come_back_untouched() -> None:
    base, augmented = Guessing().train(), Net().train()
    augmented[1].eval()
    before = [{name: value.clone() for name, value in net.state_dict().items()} for net in (base, augmented)]
    state, threads = torch.get_rng_state(), torch.get_num_threads()

    measure_latency(base, augmented, IMAGES, repeats=2)

    for net, weights in zip((base, augmented), before, strict=True):
        assert all(torch.equal(value, weights[name]) for name, value in net.state_dict().items())
    assert all(module.training for module in base.modules())
    assert [module.training for module in augmented.modules()] == [True, True, False, True, True, True]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert torch.is_grad_enabled()


def test_a_network_without_a_translation_leaves_the_other_runtime_its_times() -> None:
    in_torch, *in_onnx = measure_latency(Net(), Guessing(), IMAGES[:1], repeats=2)
    assert in_torch.ratio is not None
    (failed,) = in_onnx
    assert failed == LatencyRatio("onnxruntime", 1, failure=failed.failure)
    assert failed.failure.startswith("With blocks: The network could not be followed by torch.export")


def test_a_batch_that_the_network_refuses_is_told_and_the_others_are_timed() -> None:
    one, three = measure_latency(Refusing(), Net(), IMAGES, repeats=2, runtimes=["torch"])
    assert one.failure == "Without blocks: one image is no batch"
    assert three.ratio is not None


def test_a_batch_without_room_in_memory_is_told_and_the_others_are_timed() -> None:
    one, many = measure_latency(Net(), Net(), IMAGES, batches=(1, 10**15), repeats=2, runtimes=["torch"])
    assert one.ratio is not None
    assert many.failure.startswith("A batch of 1,000,000,000,000,000 images: ")


def test_what_the_watcher_raises_is_no_failure_of_a_runtime() -> None:
    def interrupt(title: str, done: int, of: int) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        measure_latency(Net(), Net(), IMAGES, repeats=2, runtimes=["torch"], progress=interrupt)


def test_one_pair_and_unknown_runtimes_are_refused() -> None:
    with pytest.raises(UsageError, match=r"repeats \(=1\)"):
        measure_latency(Net(), Net(), IMAGES, repeats=1)
    with pytest.raises(UsageError, match=r"'tensorrt'.\nKnown runtimes: torch, compiled, onnxruntime, training"):
        measure_latency(Net(), Net(), IMAGES, runtimes=["tensorrt"])  # type: ignore[list-item]


def test_a_training_step_and_batches_beyond_the_images_leave_both_networks_as_they_were() -> None:
    base, augmented = Net(), Net()
    before = [{name: value.clone() for name, value in net.state_dict().items()} for net in (base, augmented)]
    batches = [
        one.batch for one in measure_latency(base, augmented, IMAGES, batches=(7, 2), repeats=2, runtimes=["training"])
    ]
    assert batches == [2, 7]
    for net, state in zip((base, augmented), before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
        assert all(parameter.grad is None for parameter in net.parameters())


def test_a_batch_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="A batch of 0 images"):
        measure_latency(Net(), Net(), IMAGES, batches=(0, 2))
