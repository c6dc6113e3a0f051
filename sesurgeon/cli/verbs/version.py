"""``sesurgeon version``: the versions that a bug report needs."""

from __future__ import annotations

import platform

from rich.table import Table

from sesurgeon.cli.asked.options import Talking
from sesurgeon.cli.asked.spread import spread
from sesurgeon.cli.shown.console import reporting
from sesurgeon.version import __version__

_LIBRARIES = (
    "torch", "torchvision", "timm", "accelerate", "torchmetrics", "safetensors", "numpy", "onnx", "onnx-ir",
    "onnxscript", "onnxslim", "onnxruntime",
)  # fmt: skip


@spread
def version(talking: Talking) -> None:
    """Print the versions of sesurgeon, Python and the libraries it uses."""
    with reporting(talking, with_torch=False) as out:
        versions = {"sesurgeon": __version__, "python": platform.python_version()}
        versions |= {library: _installed(library) for library in _LIBRARIES}
        table = Table(show_header=False)
        for name, number in versions.items():
            table.add_row(name, number)
        out.result(table, versions)


def _installed(library: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "not installed"
