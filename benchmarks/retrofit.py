"""When does SE pay that is put into a network which is trained already?

    python benchmarks/retrofit.py --data-dir DIR --work DIR

Two base networks learn the 60,000 images of Fashion-MNIST, once for each seed. Then all arms start from the same base,
see the same images in the same order, and train for the same number of epochs with the same settings, a tenth of what
the base took; the last arm is an SE network trained from scratch for base and fine-tuning together. Nothing is chosen
by the 10,000 test images: the numbers are those of the last epoch.

A third case is the small network again, whose base has learned the images as they are, and which then gets to see them
as other cameras and other light would give them (:func:`in_other_light`): all of them, and a quarter, which takes a
tenth of the base's time. Both kinds of images are also given to networks of three and of twelve blocks, and to one that
tells twenty classes apart (:func:`upside_down`).

Every run leaves a line in ``benchmarks/retrofit.jsonl``, and is not done again; base networks lie in the work folder.
DIR holds ``FashionMNIST/raw`` as torchvision keeps it. Writes ``benchmarks/retrofit.md`` and ``retrofit.png`` from what
is done so far.
"""

from __future__ import annotations

import argparse
import json
import statistics
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import fashion_mnist
import matplotlib as mpl
import numpy as np
import timm
import torch
from kept_runs import keep, mean_and_spread, runs_in
from matplotlib import pyplot
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

import sesurgeon
from sesurgeon.files import atomic_write
from sesurgeon.finetune import Data, EpochFinished, Event, FinetuneConfig, open_data
from sesurgeon.finetune.scoring.gatewatch import watch_gates
from sesurgeon.models import Preprocessing, Provenance, Source, attach_provenance
from sesurgeon.placement import model_cost

mpl.use("Agg")

Array = NDArray[Any]
TABLE = Path(__file__).with_suffix(".md")
PICTURE = TABLE.with_suffix(".png")
RUNS = TABLE.with_suffix(".jsonl")
SIDE = 28
INPUTS = torch.zeros(2, 1, SIDE, SIDE)
# as fine-tuning shifts images: shifted further than the base has seen, all arms would fall below it
SHIFT = SIDE // 8
WATCHED = 1000  # test images by which the gates are looked at
VIEW = Preprocessing((1, SIDE, SIDE), (0.5,), (0.5,), "bicubic", 1.0)


@dataclass(frozen=True)
class Network:
    """A base network.

    Attributes:
        label: in the table.
        make: builds it, untrained.
        base_epochs: that its owner trained it for.
        epochs: of fine-tuning, a tenth of those.
        seeds: how many bases.
        settings: of fine-tuning, the same in all arms.
        task: what the base and all that comes of it learn, made of images, (N, 28, 28) in 8 bits, and labels; None
            for the ten classes as they are.
        images: what becomes of the images before fine-tuning and its tests; the base learned them without this.
        scratch: is there an SE network from scratch to compare with?
        train_images: how many of the training images fine-tuning sees; None for all.
        base: whose base networks it has, if they are not its own.
        arms: what is done to its base networks.
    """

    label: str
    make: Callable[[], nn.Module]
    base_epochs: int
    epochs: int
    seeds: int
    settings: Mapping[str, Any]
    task: Callable[[Array, Array], tuple[Array, Array]] | None = None
    images: Callable[[Array], Array] | None = None
    scratch: bool = True
    train_images: int | None = None
    base: str | None = None
    arms: tuple[str, ...] = ("a", "b", "c", "d")


def small(depth: int = 2, classes: int = 10) -> nn.Module:
    """``depth`` basic blocks each of 8, 16 and 32 channels, on 14x14 places; with two, 44 thousand parameters."""
    return fashion_mnist.small_resnet((8, 16, 32), stride=2, depth=depth, classes=classes)


def timms() -> nn.Module:
    """A residual block a stage; with stride 8 in place of 32, for images of 28 px."""
    return timm.create_model("test_resnet", num_classes=10, in_chans=1, output_stride=8)


def upside_down(images: Array, labels: Array) -> tuple[Array, Array]:
    """Twenty classes: half of the images are turned upside down, always the same ones, and are classes of their own."""
    turned = np.random.default_rng((len(images), 1)).random(len(images)) < 0.5  # other draws than of the light
    return np.where(turned[:, None, None], images[:, ::-1], images), labels + 10 * turned


def in_other_light(images: Array) -> Array:
    """Each image by itself, always the same: contrast down to 15 %, brightness wherever that fits, noise up to 5 %."""
    draw = np.random.default_rng(len(images))
    shape = (len(images), 1, 1)
    contrast = np.exp(draw.uniform(np.log(0.15), 0, shape))
    light = images / 255 * contrast + draw.uniform(0, 1 - contrast)
    light += draw.normal(size=images.shape) * draw.uniform(0, 0.05, shape)
    return (light.clip(0, 1) * 255).round().astype(np.uint8)


SETTINGS = {"lr": 1e-3, "lr_block_mult": 5.0, "lr_backbone_mult": 0.1, "freeze_epochs": 0, "warmup_epochs": 0.2}
FAST = {**SETTINGS, "lr_backbone_mult": 1.0}
LIGHT = Network(
    "the small network, in other light than it has learned",
    small,
    20,
    2,
    3,
    SETTINGS,
    images=in_other_light,
    scratch=False,
    arms=("a", "b", "c", "d", "f"),
)
TENTH = replace(LIGHT, label="the small network in other light, with a quarter of the images", train_images=15_000)
NETWORKS: Mapping[str, Network] = MappingProxyType(
    {
        "small": Network("a residual network of six blocks, 44 thousand parameters", small, 20, 2, 5, SETTINGS),
        "light": LIGHT,
        "light-fast": replace(
            LIGHT,
            label="that again, all but the blocks ten times as fast",
            settings=FAST,
            base="light",
            arms=("a", "b", "d", "f"),
        ),
        "light-tenth": TENTH,
        "light-tenth-fast": replace(
            TENTH,
            label="that again, with a quarter of the images, all but the blocks ten times as fast",
            settings=FAST,
            base="light-tenth",
            arms=("a", "b", "d", "f"),
        ),
        "timm": Network("timm's `test_resnet`, 373 thousand parameters", timms, 10, 1, 3, SETTINGS),
    }
)


def _variants() -> Iterator[tuple[str, Network]]:
    """Depth and number of classes, on images that the base has learned and on a quarter of them in other light."""
    for name, label, make, task in (
        ("shallow", "three blocks", partial(small, depth=1), None),
        ("deep", "twelve blocks", partial(small, depth=4), None),
        ("classes", "six blocks, twenty classes", partial(small, classes=20), upside_down),
    ):
        known = Network(label, make, 20, 2, 3, SETTINGS, task, scratch=False, arms=("a", "b"))
        yield name, known
        light = replace(known, images=in_other_light, train_images=15_000, base=name, arms=("a", "b", "f"))
        yield f"{name}-light-tenth", light


VARIANTS: Mapping[str, Network] = MappingProxyType(dict(_variants()))
ALL: Mapping[str, Network] = MappingProxyType({**NETWORKS, **VARIANTS})


@dataclass(frozen=True)
class Arm:
    """What is done to the base before it is trained on.

    Attributes:
        label: in table and picture.
        blocks: how :func:`sesurgeon.add_se` inserts them; None for no blocks.
        settings: of fine-tuning, beside the network's.
    """

    label: str
    blocks: Mapping[str, Any] | None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Trial:
    """Other settings, on one base network, for ours and for its control.

    Attributes:
        label: in the table.
        settings: of fine-tuning, in place of the network's.
        blocks: how :func:`sesurgeon.add_se` inserts ours, in place of the arm's.
    """

    label: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    blocks: Mapping[str, Any] = field(default_factory=dict)


RANDOM: Mapping[str, Any] = MappingProxyType({"calibrate": False})
ARMS: Mapping[str, Arm] = MappingProxyType(
    {
        "a": Arm("trained on, without SE", None),
        "b": Arm("ours", {"policy": "standard"}),
        "c": Arm("the same blocks, random initialisation", {"policy": "standard", "init": "random"}, RANDOM),
        "d": Arm("after every convolution, random initialisation", {"policy": "conv", "init": "random"}, RANDOM),
        "f": Arm("ours, after every convolution", {"policy": "conv"}),
    }
)
TRIALS = (
    Trial("as above"),
    Trial("blocks learn a fifth as fast (`lr_block_mult` 1)", {"lr_block_mult": 1.0}),
    Trial("blocks learn ten times as fast (`lr_block_mult` 50)", {"lr_block_mult": 50.0}),
    Trial("not calibrated", {"calibrate": False}),
    Trial("after every convolution", blocks={"policy": "conv"}),
    Trial("within the branches (`inner`)", blocks={"policy": "inner"}),
    Trial("reduction 4", blocks={"rd_ratio": 1 / 4}),
    Trial("all at a third of the rate (`lr` 3e-4)", {"lr": 3e-4}),
    Trial("all at three times the rate (`lr` 3e-3)", {"lr": 3e-3}),
    Trial("all but the blocks ten times as fast (`lr_backbone_mult` 1)", {"lr_backbone_mult": 1.0}),
    Trial("a moving average of the weights (`model_ema` 0.998)", {"model_ema": True, "model_ema_decay": 0.998}),
    Trial(
        "that, and all but the blocks five times as fast (`lr_backbone_mult` 0.5)",
        {"model_ema": True, "model_ema_decay": 0.998, "lr_backbone_mult": 0.5},
    ),
    Trial("the blocks alone in the first epoch (`freeze_epochs` 1)", {"freeze_epochs": 1}),
    Trial("blocks and head alone (`train` blocks)", {"train": "blocks"}),
    Trial("three times as long (`epochs` 6)", {"epochs": 6}),
)
TRIED_ON = ("small", 4)  # network and seed
# settings that are nothing to a network without blocks: its control is the one without them
OF_BLOCKS = ("lr_block_mult", "calibrate", "freeze_epochs", "train")
SCRATCH = "e"
SCRATCH_LABEL = "an SE network from scratch, base and fine-tuning together"


def main() -> None:
    options = parse()
    options.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    for key in wanted(options):
        if any(run["key"] == key for run in runs_in(RUNS)):
            continue
        work = base_trained if key["arm"] == "base" else from_scratch if key["arm"] == SCRATCH else fine_tuned
        run = {"key": key, **work(key, options)}
        keep(run, RUNS)
        write(runs_in(RUNS))
    write(runs_in(RUNS))
    print(TABLE.read_text(encoding="utf-8"))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--networks", nargs="+", choices=ALL, default=list(ALL))
    parser.add_argument(
        "--seeds", type=int, nargs="+", help="which (by default five of the small network, three of timm's)"
    )
    parser.add_argument("--arms", nargs="+", choices=(*ARMS, SCRATCH), default=[*ARMS, SCRATCH])
    parser.add_argument("--threads", type=int, default=1, help="of each run: two scripts at a time are faster than one")
    return parser.parse_args()


def wanted(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The runs, all of a seed before those of the next; a base network before what is made of it."""
    for name in options.networks:
        network = ALL[name]
        for seed in options.seeds or range(network.seeds):
            for arm in ("base", *network.arms, *([SCRATCH] if network.scratch else [])):
                if arm in ("base", *options.arms):
                    yield key_of(name, arm, seed)
    if TRIED_ON[0] in options.networks and TRIED_ON[1] in (options.seeds or range(NETWORKS[TRIED_ON[0]].seeds)):
        for trial in TRIALS:
            yield from (key_of(TRIED_ON[0], arm, TRIED_ON[1], trial) for arm in ("a", "b") if arm in options.arms)


def key_of(name: str, arm: str, seed: int, trial: Trial = TRIALS[0]) -> dict[str, Any]:
    """What tells runs apart, and what was set in them: where it changes, the run has to be done again.

    Where anything else here changes, or in ``fashion_mnist.teach``, all have to be.
    """
    network = ALL[name]
    owner = network.base or name
    about = {"network": owner if arm == "base" else name, "seed": seed, "arm": arm}
    key: dict[str, Any] = {**about, "base_epochs": network.base_epochs}
    if arm != "base":
        key["epochs"] = network.epochs
        key |= {} if network.train_images is None else {"train_images": network.train_images}
    if arm in ARMS:
        blocks = ARMS[arm].blocks
        changed = {name: value for name, value in trial.settings.items() if blocks is not None or name not in OF_BLOCKS}
        key["blocks"] = None if blocks is None else {**blocks, **trial.blocks}
        key |= {**network.settings, **ARMS[arm].settings, **changed}
    return key


def base_trained(key: Mapping[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    torch.manual_seed(key["seed"])
    network = ALL[key["network"]]
    model = network.make()
    seconds = taught(model, network, key["base_epochs"], options)
    torch.save(model.state_dict(), base_file(key, options))
    return {"top1": [top1(model, network, options)], "seconds": seconds, **size_of(model)}


def from_scratch(key: Mapping[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """The paper's way: an SE network, trained as the base was, for as long as base and fine-tuning together."""
    torch.manual_seed(key["seed"])
    network = ALL[key["network"]]
    model = sesurgeon.add_se(network.make(), INPUTS, policy="standard", init="random")
    seconds = taught(model, network, key["base_epochs"] + key["epochs"], options)
    return {"top1": [top1(model, network, options)], "seconds": seconds, **size_of(model)}


def fine_tuned(key: Mapping[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """One arm: top-1 before fine-tuning and after each of its epochs, in per cent."""
    network = ALL[key["network"]]
    model = network.make()
    model.load_state_dict(torch.load(base_file(key, options)))
    made_by = partial(network.make).func  # of a variant, without its arguments
    attach_provenance(model, Provenance(Source("factory", f"retrofit:{made_by.__name__}"), preprocessing=VIEW))
    torch.manual_seed(key["seed"])
    if key["blocks"] is not None:
        model = sesurgeon.add_se(model, INPUTS, **key["blocks"])
    about = ("network", "arm", "base_epochs", "blocks", "train_images")
    settings = {name: value for name, value in key.items() if name not in about}
    config = FinetuneConfig(
        **{
            "batch_size": 128, "hflip": 0.5, "workers": 0, "device": "cpu", "log_with": (), "force": True,
            "output": str(options.work / "runs"), "name": f"{key['network']}-{key['seed']}-{key['arm']}", **settings,
        }
    )  # fmt: skip
    began, seconds, gates = time.process_time(), 0.0, list[float]()

    def watch(event: Event) -> None:
        nonlocal seconds, gates
        if isinstance(event, EpochFinished) and event.row.epoch == config.epochs - 1:
            seconds = time.process_time() - began
            gates = [one.image_spread for one in watch_gates(model, [(watched(data), None)])]

    data = open_data(fashion_mnist.DATA, data_dir=options.data_dir)
    if network.images is not None or network.task is not None:
        train, val = (pictures(network, part.data.numpy(), part.targets.numpy()) for part in (data.train, data.val))
        data = replace(data, classes=range(max(val.targets) + 1), train=train, val=val)
    if network.train_images is not None:
        data = replace(data, train=Subset(data.split("train"), range(network.train_images)))
    result = sesurgeon.finetune(model, data, config, on_progress=watch)
    return {
        "top1": [row.scores["top1"] for row in result.rows],
        "seconds": seconds,
        "gates": gates,
        **size_of(model),
    }


class Pictures(Dataset[tuple[Image.Image, int]]):
    """Images (N, H, W) in 8 bits and their labels, as a torchvision dataset gives them."""

    def __init__(self, images: Array, targets: Array) -> None:
        self.images, self.targets = images, targets.tolist()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.images[index]), self.targets[index]


def pictures(network: Network, images: Array, labels: Array) -> Pictures:
    """What the network's fine-tuning sees."""
    images, labels = (images, labels) if network.task is None else network.task(images, labels)
    return Pictures(images if network.images is None else network.images(images), labels)


def watched(data: Data) -> Tensor:
    """The first test images, (N, 1, 28, 28) in [-1, 1]."""
    images = [np.asarray(data.val[index][0]) for index in range(WATCHED)]
    return (torch.from_numpy(np.stack(images))[:, None].float() / 255 - 0.5) / 0.5


def images_and_labels(network: Network, train: bool, options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """What the base learns: (N, 1, 28, 28) in [-1, 1], and labels."""
    images, labels = fashion_mnist.images_and_labels(options.data_dir, train=train, download=False)
    if network.task is None:
        return images, labels
    changed, given = network.task(images[:, 0].numpy(), labels.numpy())
    return torch.from_numpy(changed)[:, None], torch.from_numpy(given)


def taught(model: nn.Module, network: Network, epochs: int, options: argparse.Namespace) -> float:
    """Train by hand, as the network's owner would; processor seconds."""
    images, labels = images_and_labels(network, True, options)
    began = time.process_time()
    fashion_mnist.teach(model, images, labels, epochs, SHIFT)
    return time.process_time() - began


@torch.no_grad()
def top1(model: nn.Module, network: Network, options: argparse.Namespace) -> float:
    """Of the 10,000 test images, in per cent."""
    images, labels = images_and_labels(network, False, options)
    model.eval()
    right = sum(int((model(images[i : i + 500]).argmax(1) == labels[i : i + 500]).sum()) for i in range(0, 10_000, 500))
    return right / 100


def size_of(model: nn.Module) -> dict[str, int]:
    cost = model_cost(model, (INPUTS[:1],))
    return {"parameters": cost.parameters, "macs": cost.macs}


def base_file(key: Mapping[str, Any], options: argparse.Namespace) -> Path:
    owner = ALL[key["network"]].base or key["network"]
    path: Path = options.work / f"{owner}-{key['base_epochs']}-{key['seed']}.pth"
    if not path.exists() and key["arm"] != "base":
        raise SystemExit(f"The base network {path} is gone. Take its line out of {RUNS} to train it anew.")
    return path


Runs = Mapping[str, Mapping[int, Mapping[str, Any]]]
"""Arm -> seed -> run."""


def write(runs: Sequence[dict[str, Any]]) -> None:
    found = {name: of_network(runs, name) for name in NETWORKS}
    found = {name: arms for name, arms in found.items() if "base" in arms}
    with atomic_write(TABLE) as temporary:
        temporary.write_text(page(found, varied(runs) + tried(runs)), encoding="utf-8")
    draw(found)


def of_network(runs: Sequence[dict[str, Any]], name: str) -> Runs:
    """Those with the present settings."""
    arms: dict[str, dict[int, dict[str, Any]]] = {}
    for arm in ("base", *ARMS, SCRATCH):
        for run in runs:
            seed = run["key"]["seed"]
            if run["key"] == key_of(name, arm, seed):
                arms.setdefault(arm, {})[seed] = run
    return arms


def page(found: Mapping[str, Runs], more: str) -> str:
    sections = "\n\n".join(section(NETWORKS[name], arms) for name, arms in found.items())
    return f"""# When does retrofitting pay?

    python benchmarks/retrofit.py --data-dir DIR --work DIR

Fashion-MNIST, 60,000 training images of 28 px, top-1 of the 10,000 test images in per cent; nothing is chosen by them.
Each seed has a base network of its own, from which all arms start; they see the same images in the same order. Mean and
standard deviation over the seeds; the difference from the base that is trained on without SE (a) is paired by seed, and
so is the relative change of the error. Time: CPU seconds of fine-tuning divided by those of training the base. (The
base is trained by a plain loop over tensors; fine-tuning reads, flips and shifts images one by one and evaluates after
each epoch, and with blocks it also calibrates and evaluates before the first.) Multiply-adds: of one image, relative to
the base. Gates: the standard deviation over images at the end, averaged over channels; smallest and largest of the
blocks.

In other light: the base has learned the images as they are; fine-tuning and all tests after it see each image with its
own fixed contrast (down to 15 %), brightness and noise (up to 5 %).

{sections}

{more}![error after each epoch, and the difference to training on](retrofit.png)

torch {torch.__version__}, on the CPU. Every run: [retrofit.jsonl](retrofit.jsonl); those are not done again. To measure
anew, move it away.
"""


def section(network: Network, arms: Runs) -> str:
    words = ", ".join(f"{name} {value:g}" for name, value in network.settings.items())
    base = arms["base"]
    lines = [
        "| | arm | runs | after surgery |"
        + "".join(f" epoch {epoch + 1} |" for epoch in range(network.epochs))
        + " against (a) | error against (a) | time | multiply-adds | gates |",
        "|---|---|---" + "|---" * network.epochs + "|---|---|---|---|---|---|",
    ]
    lines += [row(name, by_seed, arms, network) for name, by_seed in arms.items() if name != "base"]
    missing = network.seeds * (1 + len(network.arms) + network.scratch) - sum(len(by_seed) for by_seed in arms.values())
    return f"""## {network.label[0].upper()}{network.label[1:]}

Trained for {network.base_epochs} epochs by SGD: {mean_and_spread([run["top1"][0] for run in base.values()])}. \
Fine-tuned for {network.epochs} by `sesurgeon.finetune` at batch 128, AdamW, cosine schedule; {words}.
{f"Runs that are not done yet: {missing}." if missing > 0 else ""}

{chr(10).join(lines)}"""


def relative_errors(arms: Runs, name: str) -> list[float]:
    """The change of the error against (a) in per cent, for each seed that both have."""
    control = {seed: 100 - run["top1"][-1] for seed, run in arms.get("a", {}).items()}
    errors = {seed: 100 - run["top1"][-1] for seed, run in arms[name].items()}
    return [100 * (errors[seed] / control[seed] - 1) for seed in errors if seed in control]


def row(name: str, by_seed: Mapping[int, Mapping[str, Any]], arms: Runs, network: Network) -> str:
    runs, base, control = list(by_seed.values()), arms["base"], arms.get("a", {})
    against = [by_seed[seed]["top1"][-1] - control[seed]["top1"][-1] for seed in by_seed if seed in control]
    relative = relative_errors(arms, name)
    epochs = (
        [""] * network.epochs + [mean_and_spread([run["top1"][0] for run in runs])]
        if name == SCRATCH
        else [mean_and_spread([run["top1"][epoch] for run in runs]) for epoch in range(network.epochs + 1)]
    )
    time_share = statistics.median(run["seconds"] / base[seed]["seconds"] for seed, run in by_seed.items())
    macs = runs[0]["macs"] / next(iter(base.values()))["macs"]
    gates = [statistics.mean(block) for block in zip(*(run.get("gates", ()) for run in runs), strict=True)]
    cells = (
        f"({name})", SCRATCH_LABEL if name == SCRATCH else ARMS[name].label, str(len(runs)), *epochs,
        mean_and_spread(against, "+") if against and name != "a" else "",
        f"{mean_and_spread(relative, '+')} %" if relative and name != "a" else "",
        f"{time_share:.2f}", f"{macs:.3f}",
        f"{min(gates):.3f} to {max(gates):.3f}" if gates else "",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def varied(runs: Sequence[dict[str, Any]]) -> str:
    """A table of depth and number of classes: a row for each network, the small one first."""
    lines, own = [], [name for name, network in VARIANTS.items() if network.base is None]
    for known, light in (("small", "light-tenth"), *((name, f"{name}-light-tenth") for name in own)):
        on_known, on_light = of_network(runs, known), of_network(runs, light)
        if not {"a", "b"} <= on_known.keys() or not {"a", "b", "f"} <= on_light.keys():
            continue
        base = [run["top1"][0] for run in on_known["base"].values()]
        cells = (
            ALL[known].label.removeprefix("a residual network of "), str(len(on_known["b"])), mean_and_spread(base),
            *(mean_and_spread([run["top1"][-1] for run in on_known[arm].values()]) for arm in "ab"),
            f"{mean_and_spread(relative_errors(on_known, 'b'), '+')} %",
            *(mean_and_spread([run["top1"][-1] for run in on_light[arm].values()]) for arm in "abf"),
            *(f"{mean_and_spread(relative_errors(on_light, arm), '+')} %" for arm in "bf"),
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    if len(lines) < 2:
        return ""
    return f"""## Depth and number of classes

The settings are those of the small network, the first row. Twenty classes: half of the images are turned upside down,
and are classes of their own. Known: the images that the base has learned. Light: a quarter of them in other light.
Top-1 after the last epoch; (b) is ours, (f) ours after every convolution; errors against (a), paired by seed. Runs: on
known images; three in other light.

| network | runs | base | known: (a) | (b) | error of (b) | light: (a) | (b) | (f) | error of (b) | of (f) |
|---|---|---|---|---|---|---|---|---|---|---|
{chr(10).join(lines)}

"""


def tried(runs: Sequence[dict[str, Any]]) -> str:
    """A table of the settings that were tried; nothing before the first beside those above."""
    name, seed = TRIED_ON
    top1_of = {json.dumps(run["key"]): run["top1"] for run in runs}
    lines = []
    for trial in TRIALS:
        control, ours = (top1_of.get(json.dumps(key_of(name, arm, seed, trial))) for arm in ("a", "b"))
        if control and ours:
            cells = (trial.label, f"{control[-1]:.2f}", f"{ours[-1]:.2f}", f"{ours[-1] - control[-1]:+.2f}")
            lines.append(f"| {' | '.join((*cells, f'{min(ours):.2f}'))} |")
    base = top1_of.get(json.dumps(key_of(name, "base", seed)))
    if len(lines) < 2 or not base:
        return ""
    return f"""## Settings tried

Of {NETWORKS[name].label}: the base of seed {seed}, {base[0]:.2f} %, trained on without SE (a) and with ours (b), both \
with the same
change of settings where it applies without blocks. One seed, measured on the test images: differences of 0.1 mean
nothing, and no setting above was chosen by them.

| | (a) | (b) | difference | (b) at its lowest |
|---|---|---|---|---|
{chr(10).join(lines)}

"""


def draw(found: Mapping[str, Runs]) -> None:
    """A row for each network: error after each epoch; the difference to (a), a dot a seed."""
    figure, panels = pyplot.subplots(max(len(found), 1), 2, figsize=(10, 3.6 * max(len(found), 1)), squeeze=False)
    for (left, right), (name, arms) in zip(panels, found.items(), strict=False):
        network, control = NETWORKS[name], arms.get("a", {})
        # the base on the images of fine-tuning
        base = 100 - statistics.mean(run["top1"][0] for run in (control or arms["base"]).values())
        left.axhline(base, color="0.5", linewidth=1, linestyle="--", label="the base")
        shown = [arm for arm in (*ARMS, SCRATCH) if arm in arms]
        for index, arm in enumerate(shown):
            runs, colour = arms[arm], f"C{[*ARMS, SCRATCH].index(arm)}"
            label = f"({arm}) {SCRATCH_LABEL if arm == SCRATCH else ARMS[arm].label}"
            errors = list(zip(*([100 - top for top in run["top1"]] for run in runs.values()), strict=True))
            places = [network.epochs] if arm == SCRATCH else range(network.epochs + 1)
            means = [statistics.mean(epoch) for epoch in errors]
            left.plot(
                places,
                means,
                "*" if arm == SCRATCH else "o-",
                color=colour,
                markersize=9 if arm == SCRATCH else 4,
                label=label,
            )
            gains = [runs[seed]["top1"][-1] - control[seed]["top1"][-1] for seed in runs if seed in control]
            right.plot(gains, [index] * len(gains), "o", color=colour, alpha=0.5, markeredgewidth=0)
            if gains:
                right.plot(statistics.mean(gains), index, "|", color=colour, markersize=16, markeredgewidth=2)
        title = textwrap.fill(network.label, 50)
        left.set(yscale="log", xlabel="epochs of fine-tuning", ylabel="test error, %", title=title)
        left.set_xticks(range(network.epochs + 1))
        left.set_yticks((5, 10, 20, 50, 100))
        left.yaxis.set_major_formatter("{x:g}")
        left.yaxis.set_minor_formatter("")
        left.grid(alpha=0.3, which="both")
        right.axvline(0, color="0.5", linewidth=1)
        right.set(xlabel="top-1 against (a), points, same seed", yticks=range(len(shown)))
        right.set_yticklabels([f"({arm})" for arm in shown])
        right.invert_yaxis()
        right.grid(alpha=0.3)
    found_in = [zip(*left.get_legend_handles_labels(), strict=True) for left, _ in panels]
    known = {label: handle for pairs in found_in for handle, label in pairs}
    figure.legend(known.values(), known, loc="lower center", ncols=2, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.2 / max(len(found), 1), 1, 1))
    with atomic_write(PICTURE) as temporary:
        figure.savefig(temporary, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
