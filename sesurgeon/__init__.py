"""Retrofit channel attention into a network you already have, without changing what it computes.

Public names in the order of the road: load, look, plan, operate, keep, train, study, ship. Each is imported when
it is first used, so that ``import sesurgeon`` does not import torch.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING

from sesurgeon.errors import (
    DataError,
    DivergedError,
    FileError,
    NoSiteError,
    OutputError,
    SesurgeonError,
    SiteError,
    SurgeryWarning,
    UnreadableFileError,
    UnsafeFileError,
    UntraceableError,
    UsageError,
    VerificationError,
)

if TYPE_CHECKING:
    from sesurgeon.export import export_onnx, export_pt2
    from sesurgeon.finetune import FinetuneConfig, evaluate, finetune, open_data, predict
    from sesurgeon.gates import prune, study_gates
    from sesurgeon.graph import find_sites
    from sesurgeon.placement import make_plan, read_plan, write_plan
    from sesurgeon.surgery import (
        add_se,
        apply_adapter,
        apply_plan,
        extract_adapter,
        fold_gate_scale,
        load,
        remove_se,
        save,
    )
    from sesurgeon.version import __version__

_HOMES = {
    "load": "sesurgeon.surgery",
    "find_sites": "sesurgeon.graph",
    "make_plan": "sesurgeon.placement",
    "write_plan": "sesurgeon.placement",
    "read_plan": "sesurgeon.placement",
    "apply_plan": "sesurgeon.surgery",
    "add_se": "sesurgeon.surgery",
    "remove_se": "sesurgeon.surgery",
    "fold_gate_scale": "sesurgeon.surgery",
    "save": "sesurgeon.surgery",
    "open_data": "sesurgeon.finetune",
    "FinetuneConfig": "sesurgeon.finetune",
    "finetune": "sesurgeon.finetune",
    "evaluate": "sesurgeon.finetune",
    "predict": "sesurgeon.finetune",
    "study_gates": "sesurgeon.gates",
    "prune": "sesurgeon.gates",
    "extract_adapter": "sesurgeon.surgery",
    "apply_adapter": "sesurgeon.surgery",
    "export_onnx": "sesurgeon.export",
    "export_pt2": "sesurgeon.export",
    "__version__": "sesurgeon.version",
}

__all__ = [
    "DataError",
    "DivergedError",
    "FileError",
    "FinetuneConfig",
    "NoSiteError",
    "OutputError",
    "SesurgeonError",
    "SiteError",
    "SurgeryWarning",
    "UnreadableFileError",
    "UnsafeFileError",
    "UntraceableError",
    "UsageError",
    "VerificationError",
    "__version__",
    "add_se",
    "apply_adapter",
    "apply_plan",
    "evaluate",
    "export_onnx",
    "export_pt2",
    "extract_adapter",
    "find_sites",
    "finetune",
    "fold_gate_scale",
    "load",
    "make_plan",
    "open_data",
    "predict",
    "prune",
    "read_plan",
    "remove_se",
    "save",
    "study_gates",
    "write_plan",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'sesurgeon' has no attribute '{name}'")
    value: object = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """The import of a folder binds it under its name here, which for ``finetune`` would hide the function."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
