"""When a module has the same graph in train mode as in eval mode, so that it need not be traced again.

A traced forward sees attributes of modules, its arguments, and what its children return. Where these are the same in
both modes and no module was asked for its mode, the forward does the same in both.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sesurgeon.graph.tracing.record import ModuleCall
from sesurgeon.models.footprint import Footprint

_CONSTANTS = (type(None), bool, int, float, str)


@dataclass(frozen=True)
class Grounds:
    """What the graphs of one mode depend on.

    Attributes:
        footprint: all modules, as they were when they were traced.
        looks: module path -> what its calls look like; only where no module was asked for its mode.
    """

    footprint: Footprint
    looks: Mapping[str, Any]

    def hold_for(self, footprint: Footprint) -> bool:
        """Whether nothing about the modules has changed since, except train/eval mode.

        Args:
            footprint: of the modules as they are now.
        """
        kinds = {type(module) for module in footprint.modules}
        own_train = any(kind.train is not nn.Module.train or kind.eval is not nn.Module.eval for kind in kinds)
        own_mode = any("training" in vars(base) for kind in kinds for base in kind.__mro__)
        return not own_train and not own_mode and self.footprint.differences(footprint) <= {"training"}


def looks_of(calls: Iterable[ModuleCall]) -> list[Any]:
    """Arguments and children's outputs, in a form that is equal where a traced forward could tell no difference."""
    return [(_look(call.args), _look(call.kwargs), _children(call)) for call in calls]


def _children(call: ModuleCall) -> list[Any]:
    return [(id(child.module), _look(child.output), child.writes) for child in call.children]


def _look(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype, value.device
    if type(value) in (tuple, list):
        return type(value), [_look(item) for item in value]
    if type(value) in (dict, OrderedDict):
        return type(value), [(key, _look(item)) for key, item in value.items()]
    return (type(value), value) if type(value) in _CONSTANTS else object()  # which equals nothing
