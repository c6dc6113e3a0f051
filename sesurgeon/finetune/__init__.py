"""Train what surgery left open: data, phases, the loop, the run folder, evaluation."""

from sesurgeon.finetune.config import FinetuneConfig as FinetuneConfig
from sesurgeon.finetune.data.dataset import Data as Data
from sesurgeon.finetune.data.images import BadImage as BadImage
from sesurgeon.finetune.data.loader import batches as batches
from sesurgeon.finetune.data.opening import open_data as open_data
from sesurgeon.finetune.data.transforms import preprocessing_for as preprocessing_for
from sesurgeon.finetune.events import BlocksCalibrated as BlocksCalibrated
from sesurgeon.finetune.events import EpochFinished as EpochFinished
from sesurgeon.finetune.events import EvaluationStep as EvaluationStep
from sesurgeon.finetune.events import Event as Event
from sesurgeon.finetune.events import ImagesChecked as ImagesChecked
from sesurgeon.finetune.events import PhaseStarted as PhaseStarted
from sesurgeon.finetune.events import RunResumed as RunResumed
from sesurgeon.finetune.events import RunStarted as RunStarted
from sesurgeon.finetune.events import RunStopped as RunStopped
from sesurgeon.finetune.events import StateWritten as StateWritten
from sesurgeon.finetune.events import TrainStep as TrainStep
from sesurgeon.finetune.keeping.records import EpochRow as EpochRow
from sesurgeon.finetune.keeping.records import best_of as best_of
from sesurgeon.finetune.resuming import newest_run as newest_run
from sesurgeon.finetune.resuming import resumed_config as resumed_config
from sesurgeon.finetune.run import FinetuneResult as FinetuneResult
from sesurgeon.finetune.run import finetune as finetune
from sesurgeon.finetune.scoring.evaluation import evaluate as evaluate
from sesurgeon.finetune.scoring.evaluation import open_held_out as open_held_out
from sesurgeon.finetune.scoring.measured import Measured as Measured
from sesurgeon.finetune.scoring.multilabel import LabelScore as LabelScore
from sesurgeon.finetune.scoring.multilabel import MultiLabelEvaluation as MultiLabelEvaluation
from sesurgeon.finetune.scoring.prediction import Guess as Guess
from sesurgeon.finetune.scoring.prediction import Prediction as Prediction
from sesurgeon.finetune.scoring.prediction import Predictions as Predictions
from sesurgeon.finetune.scoring.prediction import describe_bad_images as describe_bad_images
from sesurgeon.finetune.scoring.prediction import find_images as find_images
from sesurgeon.finetune.scoring.prediction import names_images as names_images
from sesurgeon.finetune.scoring.prediction import predict as predict
from sesurgeon.finetune.scoring.scores import ClassScore as ClassScore
from sesurgeon.finetune.scoring.scores import Evaluation as Evaluation
from sesurgeon.finetune.training.calibration import Calibration as Calibration
from sesurgeon.finetune.training.phases import Phase as Phase

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
    "Guess",
    "ImagesChecked",
    "LabelScore",
    "Measured",
    "MultiLabelEvaluation",
    "Phase",
    "PhaseStarted",
    "Prediction",
    "Predictions",
    "RunResumed",
    "RunStarted",
    "RunStopped",
    "StateWritten",
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
