"""Which names a pickle may mention when nobody vouches for it.

A pickle can call what it names, with arguments of its choosing. So packages are not trusted as a whole:
``torchvision.datasets.utils.download_url``, ``timm.utils`` or ``torch.hub`` write files and use the network.
Allowed are

- classes of layers and networks: subclasses of ``nn.Module`` in the places of :data:`_MODULE_HOMES`. These
  leave out what compiles or looks up code (``torch.fx``, ``torch.jit``, ``torch.nn.cpp``),
  ``torchvision.transforms.Lambda``, and whatever is not a class of networks. Reading a file makes them by
  ``__new__`` and fills them in; it never calls them, nor anything else outside of :data:`CALLABLES` (held by
  :mod:`sesurgeon.models.files.scan`);
- functions on tensors alone (``torch.nn.functional``, timm's activations), and a few helpers that
  torchvision's and timm's models carry: with these every pickled model of torchvision 0.29 and timm 1.0.31
  loads except torchvision's ViT (``functools.partial``) and timm's FasterNet (``builtins.getattr``, which
  reaches anything);
- plain data that training checkpoints carry, as itself or as a stand-in.

Names are looked up as they are written, in a module of that exact name: there is no module
``torch.nn.modules.module.os``, whose ``system`` could be reached.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import pathlib
import types
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.torch_version import TorchVersion

from sesurgeon.models.files.numpy_data import NumpyArray, NumpyType, numpy_scalar
from sesurgeon.models.preprocessing import Preprocessing
from sesurgeon.models.provenance import Provenance, Structure
from sesurgeon.models.sources.source import Source

_MODULE_HOMES = (
    "torch.nn.modules.",
    "torch.nn.parallel.data_parallel.",
    "torch.ao.nn.intrinsic.modules.fused.",
    "torchvision.models.",
    "torchvision.ops.",
    "timm.layers.",
    "timm.models.",
)
_FUNCTION_HOMES = ("torch.nn.functional", "timm.layers.activations")
_HELPERS = frozenset(
    {
        "timm.layers.format.Format",
        "timm.models._features.FeatureInfo",
        "torch._C._nn.gelu",
        "torchvision.models.detection._utils.BalancedPositiveNegativeSampler",
        "torchvision.models.detection._utils.BoxCoder",
        "torchvision.models.detection._utils.BoxLinearCoder",
        "torchvision.models.detection._utils.Matcher",
        "torchvision.models.detection._utils.SSDMatcher",
        "torchvision.models.optical_flow.raft._pass_through_h",
        "torchvision.ops.boxes.box_iou",
    }
)


def _empty_dict(*_: object) -> dict[Any, Any]:
    """Stands in for ``collections.defaultdict``: torch fills plain dicts only."""
    return {}


def _empty_bytes(*_: object) -> bytes:
    """Stands in for ``bytes``, which pickles call for empty ones; given a number, it would fill the memory."""
    return b""


PLAIN_DATA: Mapping[str, Any] = types.MappingProxyType(
    {
        "argparse.Namespace": argparse.Namespace,
        "types.SimpleNamespace": types.SimpleNamespace,
        "builtins.bytes": _empty_bytes,
        "collections.defaultdict": _empty_dict,
        "datetime.date": datetime.date,
        "datetime.datetime": datetime.datetime,
        "datetime.time": datetime.time,
        "datetime.timedelta": datetime.timedelta,
        "datetime.timezone": datetime.timezone,
        "torch.torch_version.TorchVersion": TorchVersion,
        **{f"builtins.{kind.__name__}": kind for kind in (bool, dict, float, frozenset, int, list, str, tuple)},
        # as pure paths: a path of another operating system cannot be made here, and these touch no disk
        **{
            f"{module}.{name}": pure
            for module in ("pathlib", "pathlib._local")
            for name, pure in (
                ("PosixPath", pathlib.PurePosixPath),
                ("PurePosixPath", pathlib.PurePosixPath),
                ("WindowsPath", pathlib.PureWindowsPath),
                ("PureWindowsPath", pathlib.PureWindowsPath),
            )
        },
        **{f"numpy.{core}.multiarray.scalar": numpy_scalar for core in ("core", "_core")},
        **{f"numpy.{core}.multiarray._reconstruct": NumpyArray for core in ("core", "_core")},
        "numpy.dtype": NumpyType,
        "numpy.ndarray": NumpyArray,
        # our own, in a model that was made by sesurgeon.load and saved whole
        **{f"{kind.__module__}.{kind.__name__}": kind for kind in (Preprocessing, Provenance, Source, Structure)},
    }
)

# What the pickle of a module may call. torch's own list is longer, by functions that call or name their
# arguments.
CALLABLES = frozenset(
    {
        "builtins.complex",
        "builtins.set",
        "collections.Counter",
        "collections.OrderedDict",
        "timm.layers.format.Format",
        "torch.Size",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_tensor_v3",
        "torch.device",
        "torch.serialization._get_layout",
        "_codecs.encode",
        *PLAIN_DATA,
    }
)


def allowed(name: str) -> Any | None:
    """What ``name``, as ``package.module.thing``, stands for in a pickle that nobody vouches for, or None.

    Modules are imported only where the name begins with one of the places listed above.
    """
    if name in PLAIN_DATA:
        return PLAIN_DATA[name]
    home, _, attribute = name.rpartition(".")
    if name not in _HELPERS and home not in _FUNCTION_HOMES and not name.startswith(_MODULE_HOMES):
        return None
    if not all(part.isidentifier() for part in name.split(".")):  # an import would look for it on the disk
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old homes announce that they have moved
            found = getattr(importlib.import_module(home), attribute)
    except (ImportError, AttributeError):
        return None
    is_helper = name in _HELPERS
    is_function = isinstance(found, types.FunctionType) and found.__module__ in _FUNCTION_HOMES
    return found if is_helper or is_function or _is_network_class(found) else None


def _is_network_class(found: object) -> bool:
    """A layer or network from one of the homes, without a ``__new__`` of its own that would run code."""
    return (
        isinstance(found, type)
        and issubclass(found, nn.Module)
        and not issubclass(found, (torch.fx.GraphModule, torch.jit.ScriptModule))
        and found.__new__ is object.__new__
        and f"{found.__module__}.".startswith(_MODULE_HOMES)
    )
