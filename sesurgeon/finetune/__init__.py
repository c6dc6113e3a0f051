"""Train what surgery left open: data, phases, the loop, the run folder, evaluation."""

from sesurgeon.finetune.config import FinetuneConfig as FinetuneConfig
from sesurgeon.finetune.data import Data as Data
from sesurgeon.finetune.evaluation import evaluate as evaluate
from sesurgeon.finetune.evaluation import open_held_out as open_held_out
from sesurgeon.finetune.events import EpochFinished as EpochFinished
from sesurgeon.finetune.events import EvaluationStep as EvaluationStep
from sesurgeon.finetune.events import Event as Event
from sesurgeon.finetune.events import ImagesChecked as ImagesChecked
from sesurgeon.finetune.events import PhaseStarted as PhaseStarted
from sesurgeon.finetune.events import RunStarted as RunStarted
from sesurgeon.finetune.events import TrainStep as TrainStep
from sesurgeon.finetune.images import BadImage as BadImage
from sesurgeon.finetune.loader import batches as batches
from sesurgeon.finetune.opening import open_data as open_data
from sesurgeon.finetune.phases import Phase as Phase
from sesurgeon.finetune.prediction import Guess as Guess
from sesurgeon.finetune.prediction import Prediction as Prediction
from sesurgeon.finetune.prediction import Predictions as Predictions
from sesurgeon.finetune.prediction import describe_bad_images as describe_bad_images
from sesurgeon.finetune.prediction import find_images as find_images
from sesurgeon.finetune.prediction import names_images as names_images
from sesurgeon.finetune.prediction import predict as predict
from sesurgeon.finetune.records import EpochRow as EpochRow
from sesurgeon.finetune.run import FinetuneResult as FinetuneResult
from sesurgeon.finetune.run import finetune as finetune
from sesurgeon.finetune.scores import ClassScore as ClassScore
from sesurgeon.finetune.scores import Evaluation as Evaluation
from sesurgeon.finetune.transforms import preprocessing_for as preprocessing_for

__all__ = [
    "BadImage",
    "ClassScore",
    "Data",
    "EpochFinished",
    "EpochRow",
    "Evaluation",
    "EvaluationStep",
    "Event",
    "FinetuneConfig",
    "FinetuneResult",
    "Guess",
    "ImagesChecked",
    "Phase",
    "PhaseStarted",
    "Prediction",
    "Predictions",
    "RunStarted",
    "TrainStep",
    "batches",
    "describe_bad_images",
    "evaluate",
    "find_images",
    "finetune",
    "names_images",
    "open_data",
    "open_held_out",
    "predict",
    "preprocessing_for",
]
