"""The time that SE costs in onnxruntime: sesurgeon's files against timm's network and torch's own export.

    python benchmarks/onnx_files.py

timm's `resnet50`; sesurgeon's blocks in it, policies `standard` and `inner`, as `export --onnx` and `export --for-cpu`
write them; and timm's `seresnet50`, whose blocks stand where `standard` puts them, as `torch.onnx.export` writes it.
Weights are random and gates are live. All files are loaded in one process and run in turn; ratios are taken round by
round. Then a new process does the same, in another order: where it puts what in memory is chance.
Writes benchmarks/onnx_files.md and .github/assets/trade.png.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import statistics
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import onnx
import onnxruntime
import timm
import torch
from torch import nn

import sesurgeon
from sesurgeon.files import atomic_write

TABLE = Path(__file__).with_suffix(".md")
PICTURE = Path(__file__).parent.parent / ".github/assets/trade.png"
BASE, TIMM = "`resnet50`", "timm's `seresnet50`, exported by torch"
OURS = {
    ("standard", False): "`standard`, `export --onnx`",
    ("standard", True): "`standard`, `export --for-cpu`",
    ("inner", False): "`inner`, `export --onnx`",
    ("inner", True): "`inner`, `export --for-cpu`",
}
PAPER = {"none": 23.30, "standard": 22.28, "inner": 22.48}  # top-1 errors, tables 10 and 14 of the paper
BATCHES = (1, 8)


@dataclass(frozen=True)
class Ratio:
    """Of two networks' times, round by round.

    Attributes:
        ms: the median of the first one's milliseconds.
        median, low, high: of the ratios; half of them lie between the latter two.
    """

    ms: float
    median: float
    low: float
    high: float

    @classmethod
    def of(cls, seconds: list[float], base: list[float]) -> Ratio:
        low, median, high = statistics.quantiles([a / b for a, b in zip(seconds, base, strict=True)], n=4)
        return cls(1000 * statistics.median(seconds), median, low, high)


def main() -> None:
    options = parse()
    with tempfile.TemporaryDirectory() as folder:
        files = written(Path(folder))
        nodes = {name: len(onnx.load(path).graph.node) for name, path in files.items()}
        seconds = {batch: in_processes(files, batch, options) for batch in BATCHES}
    ratios = {(name, batch): Ratio.of(found[name], found[BASE]) for batch, found in seconds.items() for name in files}
    with atomic_write(TABLE) as temporary:
        temporary.write_text(page(options, nodes, ratios), encoding="utf-8")
    draw(ratios)
    print(TABLE.read_text(encoding="utf-8"))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5, help="of batch 8 in a process; four times as many of batch 1")
    parser.add_argument("--processes", type=int, default=8, help="one after the other")
    return parser.parse_args()


def written(folder: Path) -> dict[str, Path]:
    torch.manual_seed(0)
    base = timm.create_model("resnet50").eval()
    paths = {BASE: folder / "base.onnx"}
    sesurgeon.export_onnx(base, paths[BASE])
    for number, ((policy, for_cpu), name) in enumerate(OURS.items()):
        paths[name] = folder / f"{number}.onnx"
        augmented = enlivened(sesurgeon.add_se(base, policy=policy))
        sesurgeon.export_onnx(augmented, paths[name], for_cpu=for_cpu)
    paths[TIMM] = folder / "timm.onnx"
    theirs, image = enlivened(timm.create_model("seresnet50")).eval(), torch.randn(2, 3, 224, 224)
    batch = {0: torch.export.Dim.DYNAMIC}
    program = torch.onnx.export(theirs, (image,), input_names=["input"], dynamic_shapes=(batch,), verbose=False)
    program.save(paths[TIMM])
    return paths


def enlivened(model: nn.Module) -> nn.Module:
    for name, parameter in model.named_parameters():
        if ".se.fc" in name:
            nn.init.normal_(parameter, std=0.02)
    return model


def in_processes(files: Mapping[str, Path], batch: int, options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each pass by name, round by round, in one new process after the other."""
    rounds = options.rounds * (4 if batch == 1 else 1)
    seconds: dict[str, list[float]] = {name: [] for name in files}
    for turn in range(options.processes):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            found = process.submit(in_turn, files, batch, rounds, options.threads, turn).result()
        for name, times in found.items():
            seconds[name] += times
    return seconds


def opened(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    options.add_session_config_entry("session.force_spinning_stop", "1")  # idle threads would take the others' cores
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def in_turn(files: Mapping[str, Path], batch: int, rounds: int, threads: int, seed: int) -> dict[str, list[float]]:
    order = random.Random(seed)
    sessions = {name: opened(files[name], threads) for name in order.sample(list(files), len(files))}
    images = torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(0)).numpy()
    seconds: dict[str, list[float]] = {name: [] for name in files}
    for _ in range(rounds + 2):
        for name in order.sample(list(files), len(files)):
            began = time.perf_counter()
            sessions[name].run(None, {"input": images})
            seconds[name].append(time.perf_counter() - began)
    return {name: found[2:] for name, found in seconds.items()}  # the first two warm up


def page(options: argparse.Namespace, nodes: dict[str, int], ratios: dict[tuple[str, int], Ratio]) -> str:
    rows = [
        f"| {name} | {nodes[name]} | " + " | ".join(cell(ratios[name, batch]) for batch in BATCHES) + " |"
        for name in nodes
    ]
    over = {batch: ratios[OURS["standard", True], batch].median - 1 for batch in BATCHES}
    theirs = {batch: ratios[TIMM, batch].median - 1 for batch in BATCHES}
    shares = " and ".join(f"{over[batch] / theirs[batch]:.2f} at batch {batch}" for batch in BATCHES)
    threads, rounds, processes = options.threads, options.rounds, options.processes
    return f"""# SE in onnxruntime

    python benchmarks/onnx_files.py --threads {threads} --rounds {rounds} --processes {processes}

ResNet-50 at 224 px on {threads} CPU threads, fp32, in {processes} processes one after the other, onnxruntime
{onnxruntime.__version__}, timm {timm.__version__}, torch {torch.__version__}: the number of nodes in each file, the
median time of a batch, and the median of its ratios to `resnet50` in the same round, with the interquartile range.

| file | nodes | batch 1 | batch 8 |
| --- | ---: | ---: | ---: |
{chr(10).join(rows)}

Torch exports timm's network with as many nodes as `export --onnx`; `--for-cpu` has more, and takes less time.
The overhead of `standard` with `--for-cpu` over `resnet50`, relative to that of timm's export: {shares}.
"""


def cell(one: Ratio) -> str:
    return f"{one.ms:.1f} ms, {one.median:.3f} ({one.low:.3f} to {one.high:.3f})"


def draw(ratios: dict[tuple[str, int], Ratio]) -> None:
    """Time against the paper's accuracy: batch 8 filled, batch 1 hollow."""
    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    points = [
        (BASE, "none", "without SE", "0.35", (12, -4)),
        (TIMM, "standard", "standard, as torch exports timm's seresnet50", "#D55E00", (6, -18)),
        (OURS["standard", True], "standard", "standard, --for-cpu", "#0072B2", (-60, -34)),
        (OURS["inner", True], "inner", "inner, --for-cpu", "#009E73", (4, -18)),
    ]
    for name, policy, label, colour, offset in points:
        times = [100 * (ratios[name, batch].median - 1) for batch in BATCHES]
        axes.plot(times, [PAPER[policy]] * 2, "-", color=colour, linewidth=1)
        axes.plot(times[0], PAPER[policy], "o", color=colour, markersize=7, markerfacecolor="white")
        axes.plot(times[1], PAPER[policy], "o", color=colour, markersize=9)
        place = {"xytext": offset, "textcoords": "offset points", "ha": "right" if offset[0] == 6 else "left"}
        axes.annotate(label, (times[1], PAPER[policy]), color=colour, fontsize=9, **place)
    axes.set(ylim=(23.4, 22.15), xlim=(-1, None))
    axes.set_xlabel("time added to ResNet-50 in onnxruntime, two CPU threads, % (filled: batch 8, hollow: batch 1)")
    axes.set_ylabel("top-1 error on ImageNet, %\n(the paper's, from scratch)")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    with atomic_write(PICTURE) as temporary:
        figure.savefig(temporary, dpi=160, format="png")


if __name__ == "__main__":
    main()
