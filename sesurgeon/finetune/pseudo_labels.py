"""Labels for images that have none: the network's predictions before training."""

from __future__ import annotations

from dataclasses import replace

from PIL import Image
from torch import Tensor, nn

from sesurgeon.errors import UsageError
from sesurgeon.finetune.config import FinetuneConfig
from sesurgeon.finetune.data.dataset import Data
from sesurgeon.finetune.data.images import FileImages, Images
from sesurgeon.finetune.data.loader import eval_loader
from sesurgeon.finetune.data.preparing import preprocessing_for
from sesurgeon.finetune.scoring.evaluate import measure
from sesurgeon.finetune.scoring.evaluation import Evaluation
from sesurgeon.finetune.scoring.forward import count_outputs, output_names
from sesurgeon.models.provenance import provenance_of

_NOTE = (
    "The images have no labels, so the network's own predictions before training are used as labels: top-1 is the "
    "share of images on which it still agrees with itself. It starts at 100 %, so it cannot choose a best epoch: "
    "best.pt is the last epoch."
)


class Labelled:
    """Images of a caller's own dataset with other labels than their own.

    Args:
        images: the images.
        targets: the class index of each image.
    """

    def __init__(self, images: Images, targets: tuple[int, ...]) -> None:
        self.images = images
        self.targets = targets

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int, /) -> tuple[Image.Image, int]:
        return self.images[index][0], self.targets[index]


def _labelled(images: Images, targets: tuple[int, ...]) -> Images:
    # files stay files, because a run's state and history know them by their names
    return replace(images, targets=targets) if isinstance(images, FileImages) else Labelled(images, targets)


def labelled_by(model: nn.Module, data: Data, config: FinetuneConfig, said: Tensor | None) -> Data:
    """``data`` with the predictions of ``model`` as labels of the validation images; its outputs become the classes.

    The labels of the training images stay meaningless: distillation alone does not read them.

    Args:
        model: as it comes to the run; its train and eval modes are left as they were.
        data: images without labels.
        config: of the run.
        said: the predictions, if the run that is resumed made them at its start: an output index for each validation
            image.

    Raises:
        UsageError: a setting in ``config`` needs labels, or the model gives several labels per image.
        DataError: the model cannot take the images.
    """
    of_labels = ("class_weights", "balanced_sampling", "patience", "eval_metric")
    needing = [name for name in of_labels if getattr(config, name)]
    if config.distill < 1 or needing:
        what = f"distill (={config.distill:g})" if config.distill < 1 else needing[0]
        raise UsageError(
            f"The images of {data.name} have no labels, which {what} needs.",
            hint="Leave it out, and give --distill 1: the network as it came is the only teacher then.",
        )
    if provenance_of(model).multi_label:
        raise UsageError(
            f"The model gives several labels per image, and the images of {data.name} have none.",
            hint="Go on with it by --multi-label and a manifest that names the labels of each image.",
        )
    preprocessing = preprocessing_for(model, data.split("train"), config.img_size)
    names = output_names(model, count_outputs(model, preprocessing))
    if said is None:
        loader = eval_loader(data.val, preprocessing, (0,), batch_size=config.batch_size, workers=config.workers)
        found = measure(model, loader, dict(enumerate(names)))
        assert isinstance(found, Evaluation)  # that is what was asked for
        said = found.predictions
    notes = (*data.notes, _NOTE)
    return replace(data, classes=names, val=_labelled(data.val, tuple(said.tolist())), notes=notes)
