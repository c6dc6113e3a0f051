"""What did the gates learn? Statistics, pictures, and pruning of blocks that do nothing."""

from sesurgeon.finetune.scoring.gatestatistics import GateStatistics
from sesurgeon.gates.pruning import Pruning, PruningStep, prune
from sesurgeon.gates.report import check_report, write_report
from sesurgeon.gates.study import GateStudy, check_blocks, study_gates

__all__ = [
    "GateStatistics",
    "GateStudy",
    "Pruning",
    "PruningStep",
    "check_blocks",
    "check_report",
    "prune",
    "study_gates",
    "write_report",
]
