"""What did the gates learn? Statistics, pictures, and pruning of blocks that do nothing."""

from sesurgeon.finetune.scoring.gatestatistics import GateStatistics
from sesurgeon.gates.pruning import Pruning, PruningStep, prune
from sesurgeon.gates.report import check_report, write_gate_report
from sesurgeon.gates.study import GateStudy, require_blocks, study_gates

__all__ = [
    "GateStatistics",
    "GateStudy",
    "Pruning",
    "PruningStep",
    "check_report",
    "prune",
    "require_blocks",
    "study_gates",
    "write_gate_report",
]
