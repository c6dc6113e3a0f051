"""What goes in: models by name or from files, read safely, with a note of where they came from."""

from sesurgeon.models.build import build, rebuild
from sesurgeon.models.copies import copy_of, view_of
from sesurgeon.models.detection import is_detector, witnesses
from sesurgeon.models.files.formats import check_is_file, format_of
from sesurgeon.models.files.own_weights import CHECKPOINT_KEY, read_history, read_parts, read_weights, take_weights
from sesurgeon.models.files.pickles import read
from sesurgeon.models.files.smuggling import is_plain_text
from sesurgeon.models.files.state_dicts import Found, find_weights
from sesurgeon.models.fit import fit, outputs_in
from sesurgeon.models.foreign import model_from
from sesurgeon.models.head import head_of, heads_if_any, heads_of, num_outputs, score_layers
from sesurgeon.models.inputs import (
    candidate_inputs,
    eval_inputs,
    example_inputs,
    input_channels,
    input_dims,
    random_input,
    train_inputs,
)
from sesurgeon.models.isolation import fresh, isolated
from sesurgeon.models.new_head import check_num_classes, replace_head, set_num_classes
from sesurgeon.models.preprocessing import Preprocessing
from sesurgeon.models.provenance import (
    Provenance,
    Structure,
    add_record,
    attach_provenance,
    check_is_network,
    detach_provenance,
    provenance_of,
    state_preprocessing,
)
from sesurgeon.models.sources.guess import guess_architectures
from sesurgeon.models.sources.source import Source, SourceKind, named_source
from sesurgeon.models.structure import structure_of

__all__ = [
    "CHECKPOINT_KEY",
    "Found",
    "Preprocessing",
    "Provenance",
    "Source",
    "SourceKind",
    "Structure",
    "add_record",
    "attach_provenance",
    "build",
    "candidate_inputs",
    "check_is_file",
    "check_is_network",
    "check_num_classes",
    "copy_of",
    "detach_provenance",
    "eval_inputs",
    "example_inputs",
    "find_weights",
    "fit",
    "format_of",
    "fresh",
    "guess_architectures",
    "head_of",
    "heads_if_any",
    "heads_of",
    "input_channels",
    "input_dims",
    "is_detector",
    "is_plain_text",
    "isolated",
    "model_from",
    "named_source",
    "num_outputs",
    "outputs_in",
    "provenance_of",
    "random_input",
    "read",
    "read_history",
    "read_parts",
    "read_weights",
    "rebuild",
    "replace_head",
    "score_layers",
    "set_num_classes",
    "state_preprocessing",
    "structure_of",
    "take_weights",
    "train_inputs",
    "view_of",
    "witnesses",
]
