"""Where could a block go in this network? The answer, with all that surgery needs to put it there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import fx, nn

from sesurgeon.errors import NoSiteError, UntraceableError, UsageError
from sesurgeon.graph import ops
from sesurgeon.graph.assemble import Place, find_places
from sesurgeon.graph.site import LeftAlone, Site
from sesurgeon.graph.tracing.fidelity import unfaithful
from sesurgeon.graph.tracing.local import LocalGraphs
from sesurgeon.graph.tracing.passes import Passes, convolved, run_in_both_modes, shapes_of
from sesurgeon.models.absent import refuse_absent_weights
from sesurgeon.models.isolation import undisturbed
from sesurgeon.models.lazy import refuse_lazy_layers
from sesurgeon.models.provenance import check_is_network
from sesurgeon.models.quantised import refuse_quantised_layers

Wanted = Callable[[Sequence[Site]], Iterable[Site]]
"""Of all sites, those that are going to be used."""


@dataclass(frozen=True)
class Survey:
    """Everything that is known of a network before surgery.

    Attributes:
        model: the network that was looked at.
        inputs: positional arguments of its forward that were used in eval mode.
        train_inputs: those that were used in train mode: detectors get targets then.
        sites: all places where a block can go, in the order in which they run, those with attention included.
        left_alone: modules with convolutions that could not be followed, and other refusals.
        graphs: by mode (``training``), what a forward pass showed.
        nodes: site id -> mode -> the node after which the block goes; None for the output of the owner as a whole.
        users: site id -> mode -> the nodes that get the block's result; () for all that use the tensor.
        train_failure: why it does not run in train mode; None where it does.
    """

    model: nn.Module
    inputs: tuple[Any, ...]
    train_inputs: tuple[Any, ...]
    sites: tuple[Site, ...]
    left_alone: tuple[LeftAlone, ...]
    graphs: Mapping[bool, LocalGraphs]
    nodes: Mapping[str, Mapping[bool, fx.Node | None]]
    users: Mapping[str, Mapping[bool, tuple[fx.Node, ...]]]
    train_failure: str | None

    def inputs_in(self, training: bool) -> tuple[Any, ...]:
        """The positional arguments of a pass in train mode, or in eval mode."""
        return self.train_inputs if training else self.inputs

    def site(self, site_id: str) -> Site:
        """The site of that id (KeyError where there is none)."""
        return self._by_id[site_id]

    @cached_property
    def _by_id(self) -> Mapping[str, Site]:
        return {site.id: site for site in self.sites}


@undisturbed()
def survey(model: nn.Module, example_inputs: Any = None, wanted: Wanted | None = None) -> Survey:
    """Run ``model`` in eval and in train mode, trace its modules, and find the places for blocks.

    The model is left exactly as it was (weights, buffers, modes, random state).

    Args:
        model: any ``nn.Module``; not wrapped in DataParallel or DistributedDataParallel.
        example_inputs: a tensor, or a tuple of positional arguments of forward; by default made from the model
            (timm's input size, the first convolution's channels and dimensions). torchvision's detectors get
            targets for train mode beside the images, if none are given.
        wanted: which sites are going to be used, all by default. Whether a local graph does exactly what its module
            does takes a pass to find out, and is found out of these only.

    Raises:
        UsageError: the model is wrapped, compiled, quantised or sharded, or has parameters without a shape or a value
            yet.
        UntraceableError: the model has no convolution, or does not run on the inputs.
        NoSiteError: it is a transformer, whose convolutions only make its tokens; or the inputs are too small.
    """
    _check_model(model)
    run = run_in_both_modes(model, example_inputs)
    places, left_alone = find_places(run.graphs, run.image)
    kept, wrong = _faithful(places, run, wanted or list)
    left_alone += [LeftAlone(path, reason) for path, reason in wrong.items()]
    if not kept and not left_alone:
        _check_no_transformer(model)
        _check_maps(run)
    return Survey(
        model,
        run.inputs,
        run.train_inputs,
        tuple(place.site for place in kept),
        tuple(left_alone),
        run.graphs,
        {place.site.id: place.nodes for place in kept},
        {place.site.id: place.users for place in kept},
        run.train_failure,
    )


def _faithful(places: list[Place], run: Passes, wanted: Wanted) -> tuple[list[Place], dict[str, str]]:
    """The places without those whose owner's graph is wrong, and why it is; what is wanted of the rest was checked."""
    wrong: dict[str, str] = {}
    checked: set[str] = set()
    while True:  # others may be wanted where some are gone
        ids = {site.id for site in wanted([place.site for place in places])}
        owners = {place.site.owner for place in places if place.needs_graph and place.site.id in ids} - checked
        if not owners:
            return places, wrong
        wrong |= unfaithful({False: run.graphs[False]}, run.inputs, owners)
        in_eval, in_train = (run.graphs[training].graphs for training in (False, True))
        # one graph for both modes is one that nothing tells in which it runs: it need not be right twice
        if two := {path for path in owners if in_eval[path] is not in_train[path]}:
            wrong |= unfaithful({True: run.graphs[True]}, run.train_inputs, two)
        checked |= owners
        places = [place for place in places if not (place.needs_graph and place.site.owner in wrong)]


def find_sites(model: nn.Module, example_inputs: Any = None) -> list[Site]:
    """The sites of ``model``, in the order in which they run: see :func:`survey`."""
    return list(survey(model, example_inputs).sites)


def _check_model(model: nn.Module) -> None:
    check_is_network(model)
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise UsageError(
            f"The model is wrapped in {type(model).__name__}.", hint="Give the network itself: model.module."
        )
    if "_orig_mod" in model._modules:  # OptimizedModule, whose import takes a second
        raise UsageError(
            "The model is compiled by torch.compile.",
            hint="Give the network itself, model._orig_mod, and compile the result.",
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise UsageError(
            "The model is TorchScript: compiled code, with no Python modules to edit.",
            hint="Give the module that was compiled.",
        )
    refuse_quantised_layers(model)
    refuse_lazy_layers(model)
    refuse_absent_weights(model)
    if not any(ops.is_conv(module) for module in model.modules()):
        kernels = next((path for path, module in model.named_modules() if ops.holds_kernels(module)), None)
        if kernels is not None:
            raise UntraceableError(
                f"{type(model).__name__} has no convolution among its modules: {kernels or 'the model itself'} has "
                "kernels of its own, for convolutions called as functions, which are not followed.",
                hint="sesurgeon works on networks of torch.nn's convolutions.",
            )
        raise UntraceableError(
            f"{type(model).__name__} has no convolution: there is no place for channel attention.",
            hint="sesurgeon works on convolutional networks; pure transformers and perceptrons are none.",
        )


def _check_no_transformer(model: nn.Module) -> None:
    if any("attention" in type(module).__name__.lower() for module in model.modules()):
        convs = [path for path, module in model.named_modules() if ops.is_conv(module)]
        raise NoSiteError(
            f"{type(model).__name__} has no convolutional site: it is a transformer, whose convolutions "
            f"({', '.join(convs[:3])}{', …' if len(convs) > 3 else ''}) only make and pool its tokens.",
            hint="Channel attention scales feature maps; sesurgeon works on convolutional networks.",
        )


def _check_maps(run: Passes) -> None:
    local = run.graphs[False]
    if any(tensor.shape[2:].numel() == 1 for tensor in convolved(local)):
        raise NoSiteError(
            f"{type(local.model).__name__} has no site on inputs of shape {shapes_of(run.inputs)}: no residual branch, "
            f"no multi-branch module, and no convolution with norm or activation but on maps of a single place.",
            hint="If maps are that small because the images are, give larger ones: --input-shape 2,3,224,224 "
            "(in Python: example_inputs=).",
        )
