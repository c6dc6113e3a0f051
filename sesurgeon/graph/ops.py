"""What a node of a local graph does, by the many ways in which it can be written."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator
from typing import Any

from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

_NOISE_MODULE = re.compile(r"Drop|StochasticDepth|LayerScale|^Identity$")
_ACTIVATION_MODULE = re.compile(  # PixelUnshuffle is none
    r"ReLU|SiLU|Swish|Mish|GELU|ELU(?!nshuffle)|Sigmoid|Tanh|Softplus|Softsign|^Act|Activation", re.I
)
_ACTIVATIONS = frozenset(
    ["relu", "relu6", "leaky_relu", "silu", "gelu", "elu", "selu", "celu", "mish", "hardswish", "hardtanh", "prelu",
     "rrelu", "hardsigmoid", "sigmoid", "tanh", "softplus", "softsign"]
)  # fmt: skip
_RESAMPLES = re.compile(r"\w*_pool[123]d|interpolate|\w*Pool\w*|Upsample")
_CROP_MODULE = re.compile(r"Chomp|Crop|Trim")
_VIEWS = re.compile(
    r"view|view_as|reshape|flatten|unflatten|(un)?squeeze|permute|transpose|movedim|expand(_as)?|broadcast_to|narrow|"
    r"chunk|split|unbind|getitem|contiguous|detach|to|float",
    re.I,
)
_BOUNDED = re.compile(r"(log)?(hard)?(sigmoid|tanh|softsign)", re.I)
_GATE = re.compile(r"(hard)?sigmoid", re.I)
_IN_PLACE = frozenset(["iadd", "isub", "imul", "itruediv"])
_SHAPE_ATTRIBUTES = frozenset(["shape", "dtype", "device", "is_cuda", "requires_grad", "layout"])
_MADE_LIKE = re.compile(r"(zeros|ones|full|empty|rand|randn|randint)_like|new_(zeros|ones|full|empty)")
_SHAPE_METHODS = frozenset(["size", "numel", "stride", "is_contiguous", "type", "get_device", "dim"])
_PRESENTS = re.compile(
    rf"{_VIEWS.pattern}|cat|stack|clone|repeat|half|double|(log_)?softmax2?d?|clamp|interpolate|upsample\w*|"
    r"pixel_?shuffle|tuple|dict|OrderedDict",
    re.I,
)
_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)
_ATTENTION_MODULE = re.compile(
    r"Squeeze.?Excit|^SE$|SE(Block|Layer|Module|WithNorm|Net)$|^E?SE|Eca|ECA|Ceca|EfficientChannelAtt|Cbam|CBAM|"
    r"GlobalContext|GatherExcite|CoordAtt|SimAM|^GCT"
)


def name_of(node: fx.Node) -> str:
    """The operation's bare name (``add`` for ``torch.add``, ``x.add_(y)``, ``x += y``); "" for any other node."""
    if node.op == "call_method":
        name = str(node.target)
    elif node.op == "call_function":
        name = getattr(node.target, "__name__", "")
    else:
        return ""
    name = name.strip("_")
    return {
        "iadd": "add",
        "isub": "sub",
        "imul": "mul",
        "itruediv": "div",
        "truediv": "div",
        "concat": "cat",
        "concatenate": "cat",
    }.get(name, name)


def kind_of(owner: nn.Module, node: fx.Node) -> str:
    """The operation's bare name, or the class name of the module that ``node`` calls."""
    module = module_of(owner, node)
    return name_of(node) if module is None else type(module).__name__


def resamples(owner: nn.Module, node: fx.Node) -> bool:
    """Pools or interpolates."""
    return bool(_RESAMPLES.fullmatch(kind_of(owner, node)))


def joins(node: fx.Node) -> str:
    """ "add" or "cat" where ``node`` is one, or calls a child that does nothing else (:mod:`sesurgeon.graph.joins`)."""
    name = node.meta.get("joins", "") if node.op == "call_module" else name_of(node)
    return name if name in ("add", "cat") else ""


def is_sum(node: fx.Node) -> bool:
    """A sum or a difference."""
    return joins(node) == "add" or name_of(node) == "sub"


def joined(node: fx.Node) -> tuple[Any, ...]:
    """What a ``cat`` concatenates: its list, or the arguments of the child that joins them; () where not known."""
    if node.op == "call_module" and len(node.args) > 1:
        return node.args
    given = node.args[0] if node.args else node.kwargs.get("tensors")
    return tuple(given) if isinstance(given, (list, tuple)) else ()


def operands(node: fx.Node) -> tuple[Any, ...]:
    """The first two operands, given by position or as PyTorch's keywords ``input`` and ``other``."""
    return (*node.args, *(node.kwargs[name] for name in ("input", "other") if name in node.kwargs))[:2]


def operand(node: fx.Node) -> Any:
    """The first of :func:`operands`; None where there is none."""
    return next(iter(operands(node)), None)


def module_of(owner: nn.Module, node: fx.Node) -> nn.Module | None:
    """The module that ``node`` calls; None where it calls none."""
    return owner.get_submodule(str(node.target)) if node.op == "call_module" else None


def tensor_of(node: Any) -> Tensor | None:
    """The (fake) tensor that ``node`` gave; None where it gave something else."""
    value = node.meta.get("value") if isinstance(node, fx.Node) else node
    return value if isinstance(value, Tensor) else None


def is_leaf(module: nn.Module) -> bool:
    """Has no children."""
    return next(module.children(), None) is None


def is_composite(module: nn.Module) -> bool:
    """Has a forward worth tracing: one that calls children, or kernels of its own.

    Norms are left out: in one with an activation of its own (timm's ``BatchNormAct2d``) there is no place for a block.
    """
    return not isinstance(module, _NORMS) and (not is_leaf(module) or holds_kernels(module))


def is_conv(module: nn.Module) -> bool:
    """A convolution, or a leaf with a weight like one (deformable, quantised, home-made)."""
    if isinstance(module, _ConvNd):
        return True
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim >= 3 and is_leaf(module)


def holds_kernels(module: nn.Module) -> bool:
    """Holds weights like a convolution's as its own parameters: its forward may call ``F.conv2d`` with them."""
    own = module.parameters(recurse=False)
    kernels = any(one.ndim >= 3 and 1 < len(one) < one.numel() for one in own)  # (C, 1, 1) scales channels
    return kernels and not is_conv(module)


def is_norm(module: nn.Module) -> bool:
    """Batch, instance, group or layer norm, with or without an activation of its own."""
    if isinstance(module, _NORMS):
        return True
    return "Norm" in type(module).__name__ and not _has_layers(module)


def parts_of(module: nn.Module) -> Iterator[nn.Module]:
    """The leaves in ``module``, itself if it is one; a norm counts as a leaf, whatever it has inside."""
    if is_norm(module) or is_leaf(module):
        yield module
        return
    for child in module.children():
        yield from parts_of(child)


def is_noise(module: nn.Module) -> bool:
    """Drop-path, dropout, layer scale or an identity, as a module."""
    return bool(_NOISE_MODULE.search(type(module).__name__)) and not _has_layers(module)


def _has_layers(module: nn.Module) -> bool:
    return any(is_conv(part) or isinstance(part, nn.Linear) for part in module.modules())


def weight(owner: nn.Module, node: fx.Node) -> int:
    """How many convolutions and linear layers ``node`` stands for."""
    module = module_of(owner, node)
    if module is not None:
        return sum(is_conv(part) or isinstance(part, nn.Linear) for part in module.modules())
    return int(name_of(node) in ("conv1d", "conv2d", "conv3d", "conv_transpose2d", "linear"))


def is_activation(owner: nn.Module, node: fx.Node) -> bool:
    """An elementwise activation, as module, function or method."""
    module = module_of(owner, node)
    return name_of(node) in _ACTIVATIONS if module is None else activates(module)


def has_activation(module: nn.Module) -> bool:
    """An activation, or a module with one in it, as timm's BatchNormAct2d."""
    return any(map(activates, module.modules()))


def activates(module: nn.Module) -> bool:
    """An elementwise activation, as a module of its own."""
    return bool(_ACTIVATION_MODULE.search(type(module).__name__)) and is_leaf(module)


def is_bounded(owner: nn.Module, node: fx.Node) -> bool:
    """An activation that squashes all values into a range, as for probabilities; or a module that holds one."""
    module = module_of(owner, node)
    names = [name_of(node)] if module is None else [type(part).__name__ for part in module.modules()]
    return any(map(_BOUNDED.fullmatch, names))


def is_gate(owner: nn.Module, node: fx.Node) -> bool:
    """An activation that squashes all values into 0 to 1."""
    module = module_of(owner, node)
    return bool(_GATE.fullmatch(kind_of(owner, node))) and (module is None or is_leaf(module))


def is_product(node: fx.Node) -> bool:
    """The product of two different tensors."""
    factors = [factor for factor in operands(node) if tensor_of(factor) is not None]
    return name_of(node) == "mul" and len(factors) == 2 and factors[0] is not factors[1]


def is_noise_or_scale(owner: nn.Module, node: fx.Node) -> bool:
    """Drop-path, dropout or layer scale: what stands between the end of a branch and the sum."""
    module = module_of(owner, node)
    if module is not None:
        return is_noise(module)
    return "drop" in name_of(node) or "stochastic" in name_of(node)


def is_crop(owner: nn.Module, node: fx.Node) -> bool:
    """Cuts off the border of a map, all channels alike (a causal convolution's ``Chomp1d``), or copies it so cut."""
    module = module_of(owner, node)
    if module is not None:
        return bool(_CROP_MODULE.search(type(module).__name__)) and next(module.parameters(), None) is None
    if not (is_slice(node) or name_of(node) == "contiguous"):
        return False
    before, after = tensor_of(operand(node)), tensor_of(node)
    if before is None or after is None or before.ndim != after.ndim:
        return False
    return before.shape[:2] == after.shape[:2]


def is_shape_access(node: fx.Node) -> bool:
    """Reads the shape or type of a tensor, not its values, as for another one like it.

    One that values are assigned to, of which no node says so, keeps the tie to the tensor that it was made like: mostly
    the values are that tensor's (a shift by hand).
    """
    if _MADE_LIKE.fullmatch(name_of(node)):
        return not _is_filled(node)
    if node.op == "call_function" and node.target is getattr:
        return node.args[1] in _SHAPE_ATTRIBUTES
    return node.op == "call_method" and node.target in _SHAPE_METHODS


def _is_filled(node: fx.Node) -> bool:
    views = [node, *filter(is_slice, node.users)]
    return any(
        user.target is operator.setitem or (str(user.target).endswith("_") and not user.users)
        for view in views
        for user in view.users
    )


def readers(node: fx.Node) -> list[fx.Node]:
    """The nodes that read the values of ``node``, and not only its shape."""
    return [user for user in node.users if not is_shape_access(user)]


def only_user(node: fx.Node) -> fx.Node | None:
    """The one node that reads the values of ``node``; None where there are more, or none."""
    users = readers(node)
    return users[0] if len(users) == 1 else None


def is_in_place(owner: nn.Module, node: fx.Node) -> bool:
    """Writes its result into its first operand: ``x += y``, ``x.add_(y)``, ``F.relu(x, inplace=True)``, a module."""
    module = module_of(owner, node)
    if module is not None:
        return bool(getattr(module, "inplace", False)) and is_leaf(module)
    if node.op not in ("call_function", "call_method"):
        return False
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return name.endswith("_") or name in _IN_PLACE or node.kwargs.get("inplace") is True


def writes(owner: nn.Module, node: fx.Node) -> bool:
    """Writes into its first operand: in place, or by ``x[…] = y``."""
    return is_in_place(owner, node) or (node.op == "call_function" and node.target is operator.setitem)


def is_view(owner: nn.Module, node: fx.Node) -> bool:
    """Returns its first operand's memory, or may."""
    return is_slice(node) or is_noise_or_scale(owner, node) or bool(_VIEWS.fullmatch(name_of(node)))


def writes_inside(owner: nn.Module, node: fx.Node) -> bool:
    """Calls a module that writes into its argument somewhere inside, and may return another tensor."""
    return bool(node.meta.get("writes")) and not is_in_place(owner, node)


def is_slice(node: fx.Node) -> bool:
    """``tensor[:, :k]``."""
    return node.op == "call_function" and node.target is operator.getitem and tensor_of(node.args[0]) is not None


def only_presents(owner: nn.Module, node: fx.Node) -> bool:
    """Only presents a result: a view, an activation or softmax, resizing, or a number added or multiplied."""
    if is_activation(owner, node) or is_noise_or_scale(owner, node):
        return True
    name = name_of(node)
    if name in ("add", "sub", "mul", "div"):
        return sum(isinstance(operand, fx.Node) for operand in operands(node)) == 1
    return bool(_PRESENTS.fullmatch(kind_of(owner, node)))


def is_attention(module: nn.Module) -> bool:
    """Has the class name of a module that scales channels or places by a gate."""
    return bool(_ATTENTION_MODULE.search(type(module).__name__))


def dim_given(node: fx.Node) -> Any:
    """The dimension along which a ``cat`` node concatenates, as it was written."""
    return node.kwargs.get("dim", node.kwargs.get("axis", node.args[1] if len(node.args) > 1 else 0))


def cat_dim(node: fx.Node) -> int:
    """The dimension along which a ``cat`` node concatenates, counted from the front."""
    dim = node.meta.get("dim") if node.op == "call_module" else dim_given(node)
    tensor = tensor_of(node)
    return dim % tensor.ndim if isinstance(dim, int) and tensor is not None else 0


def permutation(owner: nn.Module, node: fx.Node) -> tuple[int, ...] | None:
    """The order into which a ``permute`` puts the dimensions; None for any other node."""
    module = module_of(owner, node)
    if module is not None:
        dims = getattr(module, "dims", None) if type(module).__name__ == "Permute" else None
        return None if dims is None else tuple(dims)
    if name_of(node) != "permute":
        return None
    given = node.args[1:] or (node.kwargs.get("dims"),)
    dims = given[0] if len(given) == 1 and isinstance(given[0], (list, tuple)) else given
    tensor = tensor_of(node)
    rank = 0 if tensor is None else tensor.ndim
    return tuple(dim % rank for dim in dims if isinstance(dim, int)) or None
