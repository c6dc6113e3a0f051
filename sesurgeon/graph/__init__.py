"""Where could a block go? Local fx graphs, the patterns in them, and the sites."""

from sesurgeon.graph.site import LeftAlone, Site
from sesurgeon.graph.survey import Survey, find_sites, survey
from sesurgeon.graph.tracing.codegen import compile_graph
from sesurgeon.graph.tracing.fidelity import same

__all__ = ["LeftAlone", "Site", "Survey", "compile_graph", "find_sites", "same", "survey"]
