"""Labels for images that have none: what the network says of them before it is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from PIL import Image
from torch import nn

from sesurgeon.errors import UsageError
from sesurgeon.finetune.config import FinetuneConfig
from sesurgeon.finetune.data.dataset import Data
from sesurgeon.finetune.data.images import Images
from sesurgeon.finetune.data.loader import eval_loader
from sesurgeon.finetune.data.transforms import preprocessing_for
from sesurgeon.finetune.scoring.evaluation import measure
from sesurgeon.finetune.scoring.outputs import count_outputs, output_names
from sesurgeon.finetune.scoring.scores import Evaluation

_NOTE = (
    "The images have no labels. What the network said of them before training stands in for them, so top-1 is the "
    "share on which it still says the same. Before training that is all of them, so no score tells which epoch is "
    "best, and best.pt is the last one, as last.pt is."
)


class Labelled:
    """Images with other labels than their own.

    Args:
        images: any.
        targets: the class index of each.
    """

    def __init__(self, images: Images, targets: tuple[int, ...]) -> None:
        self.images = images
        self.targets = targets

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int, /) -> tuple[Image.Image, int]:
        return self.images[index][0], self.targets[index]


def labelled_by(model: nn.Module, data: Data, config: FinetuneConfig, resumed: Mapping[str, Any] | None = None) -> Data:
    """``data`` with what ``model`` says of the validation images as their labels; all its outputs are classes.

    The training images keep none that mean anything: distillation alone does not look at them.

    Args:
        model: as it comes to the run; its train and eval flags are left as they were.
        data: images without labels.
        config: of the run.
        resumed: the state from which a run goes on: it has the labels that the network gave at its start.

    Raises:
        UsageError: something in ``config`` needs labels.
        DataError: images that the model cannot take.
    """
    of_labels = ("class_weights", "balanced_sampling", "patience", "eval_metric")
    needing = [name for name in of_labels if getattr(config, name)]
    if config.distill < 1 or needing:
        what = f"distill (={config.distill:g})" if config.distill < 1 else needing[0]
        raise UsageError(
            f"The images of {data.name} have no labels, which {what} needs.",
            hint="Leave it out, and give --distill 1: the network as it came is the only teacher then.",
        )
    preprocessing = preprocessing_for(model, data.split("train"), config.img_size)
    names = output_names(model, count_outputs(model, preprocessing))
    if resumed is not None:
        said = resumed["recorder"]["best"]["labels"]
    else:
        loader = eval_loader(data.val, preprocessing, (0,), batch_size=config.batch_size, workers=config.workers)
        found = measure(model, loader, dict(enumerate(names)))
        assert isinstance(found, Evaluation)  # that is what was asked for
        said = found.predictions
    notes = (*data.notes, _NOTE)
    return replace(data, classes=names, val=Labelled(data.val, tuple(said.tolist())), notes=notes)
