"""Put blocks in, fold them, take them out, prove that nothing changed, keep the result."""

from sesurgeon.surgery.add import Surgery, add_se, operate, operate_by
from sesurgeon.surgery.apply import apply_plan, plan_of
from sesurgeon.surgery.below import survey_below
from sesurgeon.surgery.folding.constants import Replacement, replace_block
from sesurgeon.surgery.folding.gate_scale import Folding, fold, fold_gate_scale
from sesurgeon.surgery.folding.walk import NoTakerError
from sesurgeon.surgery.head import note_head
from sesurgeon.surgery.inputs import known_inputs
from sesurgeon.surgery.keeping.adapter import apply_adapter, extract_adapter
from sesurgeon.surgery.keeping.adapterfile import SUFFIX, Adapter, read_adapter
from sesurgeon.surgery.keeping.checkpoint import load, save
from sesurgeon.surgery.keeping.checkpointfile import check_checkpoint_path
from sesurgeon.surgery.proof import Proof, prove_identity
from sesurgeon.surgery.remove import remove_se
from sesurgeon.surgery.rewrite import blocks_of

__all__ = [
    "SUFFIX",
    "Adapter",
    "Folding",
    "NoTakerError",
    "Proof",
    "Replacement",
    "Surgery",
    "add_se",
    "apply_adapter",
    "apply_plan",
    "blocks_of",
    "check_checkpoint_path",
    "extract_adapter",
    "fold",
    "fold_gate_scale",
    "known_inputs",
    "load",
    "note_head",
    "operate",
    "operate_by",
    "plan_of",
    "prove_identity",
    "read_adapter",
    "remove_se",
    "replace_block",
    "save",
    "survey_below",
]
