"""The shapes of network that have places for a block."""

from sesurgeon.graph.patterns.around import around
from sesurgeon.graph.patterns.attention import attended, attention_in, attention_modules, gates_its_input
from sesurgeon.graph.patterns.concat import concatenations
from sesurgeon.graph.patterns.parallel import parallel_convolutions
from sesurgeon.graph.patterns.residual import residual_branches
from sesurgeon.graph.patterns.units import conv_units

__all__ = [
    "around",
    "attended",
    "attention_in",
    "attention_modules",
    "concatenations",
    "conv_units",
    "gates_its_input",
    "parallel_convolutions",
    "residual_branches",
]
