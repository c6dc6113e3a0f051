"""One Squeeze-and-Excitation block on a GPU, forward and backward: which way is the fastest, and for which tensors.

    python benchmarks/gpu.py

Two times of each: replayed from a CUDA graph, which is what the GPU itself takes, and launched from Python, operation
by operation, which is what a training loop sees where the GPU waits for it. Beside them the floor that the memory sets:
seven passes at the speed of a copy. Then training steps of SE-ResNet-50 over those of ResNet-50. It prints lines like
those that benchmarks/gpu.md was made from.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from unittest import mock

import gpu_loops
import timm
import torch
from block import Textbook
from timm.layers.squeeze_excite import SqueezeExcite as TimmSqueezeExcite
from torch import Tensor, nn

import sesurgeon
from sesurgeon.blocks import SqueezeExcite, kernel
from sesurgeon.blocks.layout import Layout

SHAPES = ((256, 56), (512, 28), (1024, 14), (2048, 7))
STEPS = ((16, 160, None), (64, 224, None), (64, 224, torch.bfloat16), (192, 224, torch.bfloat16))
ALL_LARGE, NONE_LARGE = 0, 2**60


def main() -> None:
    print(torch.cuda.get_device_name(), torch.__version__)
    for batch in (32, 128):
        for channels, side in SHAPES:
            for order in (torch.contiguous_format, torch.channels_last):
                x = torch.randn(batch, channels, side, side, device="cuda").to(memory_format=order)
                size = f"{batch} x {channels} @ {side}, {x.numel() * 4 / 2**20:.0f} MB, {order}"
                print(size, dict(blocks(x.requires_grad_())), flush=True)
    for batch, side, amp in STEPS:
        print(f"step: {batch} images of {side} px, {amp}", dict(steps(batch, side, amp)), flush=True)


def blocks(x: Tensor) -> Iterator[tuple[str, tuple[float, float]]]:
    """Milliseconds of each, replayed and launched."""
    channels = x.shape[1]
    seen = torch.randn_like(x)
    ours = SqueezeExcite(channels, channels // 16).cuda()
    textbook = Textbook(channels, channels // 16).cuda()
    for name, block, patched in (
        ("ours", ours, large_from(ALL_LARGE)),
        ("ours, Triton", ours, by_triton()),
        ("ours, plain operations", ours, large_from(NONE_LARGE)),
        ("timm", TimmSqueezeExcite(channels, rd_channels=channels // 16).cuda(), contextlib.nullcontext()),
        ("textbook", textbook, contextlib.nullcontext()),
        ("textbook, compiled", torch.compile(textbook, dynamic=False), contextlib.nullcontext()),
    ):
        inputs = (x, *block.parameters())

        def run(block: nn.Module = block, inputs: tuple[Tensor, ...] = inputs) -> None:
            torch.autograd.grad(block(x), inputs, seen)

        with patched:
            launched_ms = launched(run)
            yield name, (round(replayed(run), 3), round(launched_ms, 3))
    copy = torch.empty_like(x)
    yield "floor", (round(7 / 2 * replayed(lambda: copy.copy_(x.detach())), 3), float("nan"))
    torch.compiler.reset()


def large_from(size: int) -> contextlib.AbstractContextManager[object]:
    """Which tensors go the fast way back."""
    return mock.patch.object(kernel, "LARGE", size)


@contextlib.contextmanager
def by_triton() -> Iterator[None]:
    """The fast way back with loops of its own, in place of torch's operations."""

    def sum_of_products(a: Tensor, b: Tensor, layout: Layout) -> Tensor:
        shape = (*a.shape[:2], 1, 1)
        if a.is_contiguous() and b.is_contiguous():
            return gpu_loops.row_products(a.flatten(2).flatten(0, 1), b.flatten(2).flatten(0, 1)).view(shape)
        return gpu_loops.column_products(last(a), last(b)).view(shape)

    def scaled_and_shifted(a: Tensor, scale: Tensor, shift: Tensor, layout: Layout) -> Tensor:
        found = torch.empty_like(a)
        if a.is_contiguous():
            rows = a.flatten(2).flatten(0, 1), scale.flatten(), shift.flatten(), found.flatten(2).flatten(0, 1)
            gpu_loops.scaled_and_shifted_rows(*rows)
        else:
            gpu_loops.scaled_and_shifted_columns(last(a), scale.flatten(1), shift.flatten(1), last(found))
        return found

    with (
        large_from(ALL_LARGE),
        mock.patch.object(kernel, "sum_of_products", sum_of_products),
        mock.patch.object(kernel, "scaled_and_shifted", scaled_and_shifted),
    ):
        yield


def last(x: Tensor) -> Tensor:
    """What is channels last in memory as (N, places, C)."""
    return x.movedim(1, -1).flatten(1, 2)


def replayed(run: Callable[[], object], repeats: int = 20) -> float:
    """Median milliseconds of one CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    found = []
    for _ in range(repeats):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        found.append(begin.elapsed_time(end))
    return statistics.median(found)


def launched(run: Callable[[], object], repeats: int = 20) -> float:
    """Median milliseconds from the first launch to the end of the last."""
    found = []
    for _ in range(repeats + 4):
        torch.cuda.synchronize()
        began = time.perf_counter()
        run()
        torch.cuda.synchronize()
        found.append(1000 * (time.perf_counter() - began))
    return statistics.median(found[4:])


def steps(batch: int, side: int, amp: torch.dtype | None) -> Iterator[tuple[str, float]]:
    """Milliseconds of a training step of each network, channels last, launched from Python."""
    images = torch.randn(batch, 3, side, side, device="cuda").to(memory_format=torch.channels_last)
    labels = torch.randint(1000, (batch,), device="cuda")
    for name, large in (
        ("resnet50", NONE_LARGE),
        ("ours", kernel.LARGE),
        ("ours, all large", ALL_LARGE),
        ("ours, plain operations", NONE_LARGE),
        ("timm's", NONE_LARGE),
    ):
        torch.manual_seed(0)
        model = timm.create_model("seresnet50" if name == "timm's" else "resnet50")
        if name.startswith("ours"):
            model = sesurgeon.add_se(model, torch.zeros(2, 3, side, side), policy="standard")
        model = model.cuda().train().to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

        def step(model: nn.Module = model, optimizer: torch.optim.Optimizer = optimizer) -> None:
            with torch.autocast("cuda", amp or torch.bfloat16, enabled=amp is not None):
                loss = nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        with large_from(large):
            yield name, round(launched(step, 10), 1)


if __name__ == "__main__":
    main()
