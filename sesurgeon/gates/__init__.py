"""What did the gates learn? Statistics, pictures, and blocks that can go."""

from sesurgeon.finetune.scoring.gatewatch import CONSTANT
from sesurgeon.gates.drawing import draw_activations, draw_spreads
from sesurgeon.gates.pruning import Pruning, PruningStep, prune
from sesurgeon.gates.statistics import NEAR, GateStatistics
from sesurgeon.gates.study import GateStudy, check_blocks, lacks_labels, study_gates
from sesurgeon.gates.tables import check_report, write_report

__all__ = [
    "CONSTANT",
    "NEAR",
    "GateStatistics",
    "GateStudy",
    "Pruning",
    "PruningStep",
    "check_blocks",
    "check_report",
    "draw_activations",
    "draw_spreads",
    "lacks_labels",
    "prune",
    "study_gates",
    "write_report",
]
