"""``sesurgeon evaluate``: how good is a model?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.text import Text

from sesurgeon.cli.console import reporting
from sesurgeon.cli.images import (
    BatchSize,
    DataDir,
    DataSpec,
    Device,
    Download,
    ImgSize,
    OnBadImage,
    Workers,
)
from sesurgeon.cli.latest import given_or_latest, latest_trained
from sesurgeon.cli.loading import load_model_or_onnx
from sesurgeon.cli.measuring import check_on_bad_image, described, open_images
from sesurgeon.cli.options import (
    Arch,
    Debug,
    Json,
    ModelKwargs,
    NumClasses,
    OptionalModel,
    Pretrained,
    Quiet,
    TrustPickle,
)
from sesurgeon.cli.scoring import class_table, score_table

if TYPE_CHECKING:
    from sesurgeon.finetune import Data, Measured


def evaluate(
    data: DataSpec,
    model: OptionalModel = None,
    all_classes: Annotated[bool, typer.Option("--all", help="List every class, however many there are.")] = False,
    img_size: ImgSize = None,
    on_bad_image: OnBadImage = "skip",
    data_dir: DataDir = "data",
    download: Download = False,
    batch_size: BatchSize = 64,
    workers: Workers = 4,
    device: Device = "auto",
    arch: Arch = None,
    model_kwargs: ModelKwargs = None,
    num_classes: NumClasses = None,
    pretrained: Pretrained = False,
    trust_pickle: TrustPickle = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measure MODEL on the validation images of DATA: top-1, top-5, loss, and each class; or mAP and F1.

    Without a MODEL the newest `runs/finetune/*/best.pt` is taken, or else the newest `*.se.pt`. An ONNX file that
    `export` wrote is a MODEL, too; it runs in onnxruntime. Of a folder that a share was held out of in fine-tuning,
    that share is taken.
    """
    with reporting(json=json, quiet=quiet, debug=debug) as out:
        name = given_or_latest(model, latest_trained, out)
        with out.working(f"Loading {name}"):
            from sesurgeon.cli.watching import Watcher
            from sesurgeon.finetune import evaluate

            check_on_bad_image(on_bad_image)
            reading = {"arch": arch, "model_kwargs": model_kwargs, "num_classes": num_classes}
            loaded = load_model_or_onnx(name, **reading, pretrained=pretrained, trust_pickle=trust_pickle)
        with out.progress() as progress:
            watcher = Watcher(out, progress)
            images = open_images(
                out,
                loaded,
                data,
                on_bad_image=on_bad_image,
                data_dir=data_dir,
                download=download,
                workers=workers,
                on_progress=watcher,
            )
            found = evaluate(
                loaded,
                images,
                batch_size=batch_size,
                workers=workers,
                img_size=img_size,
                device=device,
                on_progress=watcher,
            )
        title = Text(f"{name} on {described(images)}", style="bold")
        tables = (score_table(found), class_table(found, all_classes=all_classes))
        out.result(Group(title, *tables), _data(name, images, found))


def _data(name: str, data: Data, found: Measured) -> dict[str, Any]:
    return {
        "model": name,
        "data": data.name,
        "val_split": data.val_split,
        "seed": data.seed,
        "images": found.images,
        **found.scores(),
        "k": getattr(found, "k", None),
        "per_class": [score.to_dict() for score in found.per_class],
        "skipped": data.skipped,
        "ignored": data.ignored,
        "notes": data.notes,
    }
