"""A training step of SE-ResNet-50 over one of ResNet-50: sesurgeon's blocks against timm's, in time and in memory.

    python benchmarks/step.py
    python benchmarks/step.py --keep-memory

timm's `resnet50`, the same with sesurgeon's blocks (policy `standard`, which puts them where timm has them), and timm's
`seresnet50`: forward, loss, backward and an SGD step on random images. In each round each network has a step, in
another order; overheads are taken round by round, so that a machine that slows down for a minute slows all. Where
memory happens to lie makes one process some per cent slower than the next for as long as it lives: so there are
several, one after the other. Memory is the most bytes that tensors take at a time in a step, above weights and the
optimiser's state (sesurgeon.export.measure_memory). Every process leaves a line in benchmarks/step.jsonl; more of them
are added to those that are there. Writes benchmarks/step.md from all that were measured with these settings.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import re
import statistics
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import timm
import torch
from kept_runs import keep, runs_in
from torch import nn

import sesurgeon
from sesurgeon.cli.memory import keep_freed_memory
from sesurgeon.export import measure_memory
from sesurgeon.files import atomic_write

TABLE = Path(__file__).with_suffix(".md")
RUNS = TABLE.with_suffix(".jsonl")
NETWORKS = ("resnet50", "ours", "timm's")
WARM_UP = 2  # rounds of a process that do not count
Seconds = dict[str, list[float]]  # of each network's steps, round by round, in one process
Setting = tuple[str, bool]  # the machine, and whether freed memory is kept


def main() -> None:
    options = parse()
    key = {"batch": options.batch_size, "side": options.img_size, "threads": options.threads}
    key |= {"channels_last": options.channels_last, "torch": torch.__version__, "timm": timm.__version__}
    own = key | {"machine": options.machine or machine(), "keeps_memory": options.keep_memory}
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as processes:
        for number in range(options.processes):
            keep({"key": own, "seconds": processes.apply(in_turn, (options, number))}, RUNS)
    groups: dict[Setting, list[Seconds]] = {}
    for run in runs_in(RUNS):
        if run["key"].items() >= key.items():
            groups.setdefault((run["key"]["machine"], run["key"]["keeps_memory"]), []).append(run["seconds"])
    with atomic_write(TABLE) as temporary:
        temporary.write_text(page(options, groups, peaks(options)), encoding="utf-8")
    print(TABLE.read_text(encoding="utf-8"))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-b", "--batch-size", type=int, default=16)
    parser.add_argument("--img-size", type=int, default=160)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10, help="of a process")
    parser.add_argument("--processes", type=int, default=8, help="to measure in, beside those that are kept")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--keep-memory", action="store_true", help="that tensors free, as sesurgeon's commands do")
    parser.add_argument("--machine", help="what to call this one, where its name is that of another, too")
    return parser.parse_args()


def machine() -> str:
    """As the system calls it; the size of the last cache tells many servers apart."""
    cpu = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    cache = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")
    return f"{cpu[1] if cpu else '?'}, {cache.read_text().strip() if cache.exists() else '?'} of last cache"


def in_turn(options: argparse.Namespace, seed: int) -> Seconds:
    if options.keep_memory:
        keep_freed_memory()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    order = torch.channels_last if options.channels_last else torch.contiguous_format
    models = {name: network(name, options.img_size).train().to(memory_format=order) for name in NETWORKS}
    optimizers = {name: torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9) for name, model in models.items()}
    images = torch.randn(options.batch_size, 3, options.img_size, options.img_size).to(memory_format=order)
    labels = torch.randint(1000, (options.batch_size,))

    def step(name: str) -> None:
        nn.functional.cross_entropy(models[name](images), labels).backward()
        optimizers[name].step()
        optimizers[name].zero_grad()

    draw = random.Random(seed)
    seconds: Seconds = {name: [] for name in NETWORKS}
    for _ in range(WARM_UP + options.rounds):
        for name in draw.sample(NETWORKS, len(NETWORKS)):
            seconds[name].append(round(timed(partial(step, name)), 3))
    return {name: found[WARM_UP:] for name, found in seconds.items()}


def timed(call: Callable[[], object]) -> float:
    """Seconds."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def network(name: str, side: int) -> nn.Module:
    if name == "timm's":
        return timm.create_model("seresnet50")
    model = timm.create_model("resnet50")
    return model if name == "resnet50" else sesurgeon.add_se(model, torch.randn(2, 3, side, side))


def peaks(options: argparse.Namespace) -> dict[str, int]:
    """Bytes of each network in a step."""
    side, order = options.img_size, torch.channels_last if options.channels_last else torch.contiguous_format
    images, found = torch.randn(options.batch_size, 3, side, side).to(memory_format=order), {}
    for name in NETWORKS[1:]:
        both = [network(one, side).to(memory_format=order) for one in ("resnet50", name)]
        (one,) = measure_memory(*both, images, batch=len(images), runtimes=("training",))
        found |= {"resnet50": one.base_bytes, name: one.augmented_bytes}
    return found


def page(options: argparse.Namespace, groups: Mapping[Setting, Sequence[Seconds]], memory: dict[str, int]) -> str:
    whole = memory["resnet50"] / 1e6
    ours, theirs = (memory[name] / 1e6 - whole for name in ("ours", "timm's"))
    rows = "\n".join(row(*setting, processes) for setting, processes in groups.items())
    command = f"python benchmarks/step.py -b {options.batch_size} --img-size {options.img_size}"
    command += f" --threads {options.threads}" + (" --channels-last" if options.channels_last else "")
    versions = f"timm {timm.__version__}, torch {torch.__version__}, {options.threads} CPU threads, fp32"
    measured = f"""
        {versions} ([step.jsonl](step.jsonl)). In each round, each network takes one step. Overheads over resnet50 are
        paired by round: their median, and in brackets its 95 % bootstrap interval over processes. sesurgeon's commands
        keep the memory that tensors free (`--keep-memory`); otherwise the system hands it out again page by page, and
        timm's blocks need more of them.
    """
    about = f"""
        The target is at most 0.6 of timm's overhead, or half. Peak memory is {whole:.0f} MB for resnet50; ours takes
        {ours:.0f} MB more and timm's {theirs:.0f} MB more (a ratio of {ours / theirs:.3f}; the target is less than 1).
        The peak is where the backward pass reaches the last block of the third stage, with thirteen blocks still to
        come. timm's keep the tensors that these scale, {scaled(options):.0f} MB, over which a network without blocks
        writes the sum. Ours stand right behind a BatchNorm, which keeps its own input anyway, and go back to that one.
        The lower bound is the gradients of the blocks already passed, 6 MB; the rest are means, hidden units and
        factors. A block elsewhere keeps the tensor that it scales, if nothing else does (a ReLU before it would).
    """
    tried = """
        Tried by hand and not used: scale and sum in one operation, `torch.addcmul`, which was no faster than scaling
        and adding in place (four processes), and rounds once where these round twice, so that a fifth of all values
        would differ in the last bit from those of timm's network with the same weights; and the last step backward over
        4 or 8 MB at a time, so that its second operation finds in the cache what the first one wrote, which took 1.3 to
        1.6 times as long.
    """
    return f"""# A training step of SE-ResNet-50

    {command}
    {command} --keep-memory

{in_lines(measured)}

| machine | freed memory | processes, rounds | resnet50, ms | ours | timm's | ours / timm's |
| --- | --- | ---: | ---: | ---: | ---: | ---: |
{rows}

{in_lines(about)}

{in_lines(tried)}
"""


def in_lines(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 120, break_long_words=False, break_on_hyphens=False)


def row(machine: str, keeps_memory: bool, processes: Sequence[Seconds]) -> str:
    """One setting's."""
    base = pooled(processes, "resnet50")
    cells = [machine, "kept" if keeps_memory else "given back", f"{len(processes)}, {len(base)}"]
    cells.append(f"{1000 * statistics.median(base):.0f}")
    for name in NETWORKS[1:]:
        low, high = interval(processes, partial(overhead, name=name))
        cells.append(f"{overhead(processes, name):.1f} % ({low:.1f} to {high:.1f})")
    low, high = interval(processes, share)
    return f"| {' | '.join([*cells, f'{share(processes):.2f} ({low:.2f} to {high:.2f})'])} |"


def pooled(processes: Sequence[Seconds], name: str) -> list[float]:
    return [seconds for process in processes for seconds in process[name]]


def overheads(processes: Sequence[Seconds], name: str) -> list[float]:
    """Of each round, in per cent."""
    pairs = zip(pooled(processes, name), pooled(processes, "resnet50"), strict=True)
    return [100 * (ours / base - 1) for ours, base in pairs]


def overhead(processes: Sequence[Seconds], name: str) -> float:
    return statistics.median(overheads(processes, name))


def share(processes: Sequence[Seconds]) -> float:
    """Of our median overhead in timm's."""
    return overhead(processes, "ours") / overhead(processes, "timm's")


def interval(processes: Sequence[Seconds], of: Callable[[Sequence[Seconds]], float]) -> tuple[float, float]:
    """Between what 95 % of ``of(processes)`` lie when processes are drawn anew from themselves, as often."""
    draw = random.Random(0)
    found = sorted(of(draw.choices(processes, k=len(processes))) for _ in range(2000))
    return found[50], found[-51]


def scaled(options: argparse.Namespace) -> float:
    """Megabytes of what the first thirteen blocks scale."""
    side = options.img_size // 4
    stages = ((3, 256, 1), (4, 512, 2), (6, 1024, 4))
    return sum(4e-6 * count * options.batch_size * channels * (side // by) ** 2 for count, channels, by in stages)


if __name__ == "__main__":
    main()
