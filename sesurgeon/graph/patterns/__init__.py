"""The shapes of network that have places for a block."""

from sesurgeon.graph.patterns.around import around
from sesurgeon.graph.patterns.attention import Gated, attended, attention_in, attention_modules, gated, gates_its_input
from sesurgeon.graph.patterns.concat import concatenations
from sesurgeon.graph.patterns.parallel import parallel_convolutions
from sesurgeon.graph.patterns.residual import residual_branches
from sesurgeon.graph.patterns.units import conv_units

__all__ = [
    "Gated",
    "around",
    "attended",
    "attention_in",
    "attention_modules",
    "concatenations",
    "conv_units",
    "gated",
    "gates_its_input",
    "parallel_convolutions",
    "residual_branches",
]
