"""Fine-tune a network: data, phases, the training loop, the run folder, evaluation, prediction."""

from sesurgeon.finetune.config import FinetuneConfig
from sesurgeon.finetune.data.dataset import Data
from sesurgeon.finetune.data.image_checks import BadImage, describe_bad_images
from sesurgeon.finetune.data.loader import batches
from sesurgeon.finetune.data.opening import open_data
from sesurgeon.finetune.data.preparing import preprocessing_for
from sesurgeon.finetune.events import (
    BlocksCalibrated,
    EpochFinished,
    EvaluationStep,
    Event,
    ImagesChecked,
    NotResumable,
    PhaseStarted,
    RunResumed,
    RunStarted,
    RunStopped,
    StateWritten,
    TrainStep,
)
from sesurgeon.finetune.keeping.records import EpochRow, best_of
from sesurgeon.finetune.resuming import newest_run, resumed_config
from sesurgeon.finetune.run import FinetuneResult, finetune
from sesurgeon.finetune.scoring.evaluate import evaluate, open_held_out
from sesurgeon.finetune.scoring.evaluation import ClassScore, Evaluation
from sesurgeon.finetune.scoring.gatestatistics import GateStatistics
from sesurgeon.finetune.scoring.measured import Measured
from sesurgeon.finetune.scoring.multilabel import LabelScore, MultiLabelEvaluation
from sesurgeon.finetune.scoring.prediction import (
    Guess,
    Prediction,
    Predictions,
    find_images,
    names_images,
    predict,
)
from sesurgeon.finetune.task import Task
from sesurgeon.finetune.training.calibration import Calibration
from sesurgeon.finetune.training.phases import Phase

__all__ = [
    "BadImage",
    "BlocksCalibrated",
    "Calibration",
    "ClassScore",
    "Data",
    "EpochFinished",
    "EpochRow",
    "Evaluation",
    "EvaluationStep",
    "Event",
    "FinetuneConfig",
    "FinetuneResult",
    "GateStatistics",
    "Guess",
    "ImagesChecked",
    "LabelScore",
    "Measured",
    "MultiLabelEvaluation",
    "NotResumable",
    "Phase",
    "PhaseStarted",
    "Prediction",
    "Predictions",
    "RunResumed",
    "RunStarted",
    "RunStopped",
    "StateWritten",
    "Task",
    "TrainStep",
    "batches",
    "best_of",
    "describe_bad_images",
    "evaluate",
    "find_images",
    "finetune",
    "names_images",
    "newest_run",
    "open_data",
    "open_held_out",
    "predict",
    "preprocessing_for",
    "resumed_config",
]
