"""Where could a block go in this network? The answer, with all that surgery needs to put it there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from sesurgeon.errors import NoSiteError, UntraceableError
from sesurgeon.graph import ops
from sesurgeon.graph.places import Place, find_places
from sesurgeon.graph.site import LeftAlone, Site
from sesurgeon.graph.tracing.fidelity import unfaithful
from sesurgeon.graph.tracing.local_graphs import LocalGraphs
from sesurgeon.graph.tracing.passes import convolved, run_in_both_modes, shapes_of
from sesurgeon.models.isolation import parameters_kept, undisturbed
from sesurgeon.models.provenance import check_is_network
from sesurgeon.models.unfit import refuse_unfit

Wanted = Callable[[Sequence[Site]], Iterable[Site]]
"""Picks, of all sites, those that are going to be used."""


@dataclass(frozen=True)
class Survey:
    """Everything that is known of a network before surgery.

    Attributes:
        model: the network that was looked at.
        places: site id -> where a block can go, in the order in which they run, those with attention included.
        left_alone: modules with convolutions that could not be followed, and other refusals.
        graphs: by mode (``training``), what a forward pass showed.
    """

    model: nn.Module
    places: Mapping[str, Place]
    left_alone: tuple[LeftAlone, ...]
    graphs: Mapping[bool, LocalGraphs]

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites of all places, in order."""
        return tuple(place.site for place in self.places.values())

    @property
    def inputs(self) -> tuple[Any, ...]:
        """The positional arguments of the pass in eval mode."""
        return self.inputs_in(training=False)

    @property
    def train_failure(self) -> str | None:
        """Why the network does not run in train mode; None where it does."""
        return self.graphs[True].failure

    def inputs_in(self, training: bool) -> tuple[Any, ...]:
        """The positional arguments of the pass in train mode, or in eval mode: detectors get targets in train mode."""
        return self.graphs[training].inputs

    def site(self, site_id: str) -> Site:
        """The site of that id (KeyError where there is none)."""
        return self.places[site_id].site


@undisturbed()
def survey(model: nn.Module, example_inputs: Any = None, wanted: Wanted | None = None) -> Survey:
    """Run ``model`` in eval and in train mode, trace its modules, and find the places for blocks.

    The model is left exactly as it was (weights, buffers, modes, random state). A forward that changes parameters is
    refused; what it wrote stays.

    Args:
        model: any ``nn.Module``; not wrapped in DataParallel or DistributedDataParallel.
        example_inputs: a tensor, or a tuple of positional arguments of forward; by default made from the model
            (timm's input size, the first convolution's channels and dimensions). torchvision's detectors get
            targets for train mode beside the images, if none are given.
        wanted: picks the sites that are going to be used, all by default. Only the local graphs that these need are
            compared with their modules, which takes another pass.

    Raises:
        UsageError: the model is wrapped, compiled, quantised or sharded, or has parameters without a shape or a value
            yet.
        UntraceableError: the model has no convolution, or does not run on the inputs, or writes into its parameters.
        NoSiteError: it is a transformer, whose convolutions only make its tokens; or the inputs are too small.
    """
    _check_model(model)
    with parameters_kept(model):
        graphs = run_in_both_modes(model, example_inputs)
    places, left_alone = find_places(graphs)
    kept, wrong = _faithful(places, graphs, wanted or list)
    left_alone += [LeftAlone(path, reason) for path, reason in wrong.items()]
    if not kept and not left_alone:
        _check_no_transformer(model)
        _check_maps(graphs[False])
    return Survey(
        model=model, places={place.site.id: place for place in kept}, left_alone=tuple(left_alone), graphs=graphs
    )


def _faithful(
    places: list[Place], graphs: Mapping[bool, LocalGraphs], wanted: Wanted
) -> tuple[list[Place], dict[str, str]]:
    """The places without those whose owner's graph is wrong, and why it is wrong, by the owner's path.

    Of the places that are left, those that are wanted were checked.
    """
    in_eval, in_train = graphs[False], graphs[True]
    wrong: dict[str, str] = {}
    checked: set[str] = set()
    while True:  # others may be wanted where some are gone
        ids = {site.id for site in wanted([place.site for place in places])}
        owners = {place.site.owner for place in places if place.needs_graph and place.site.id in ids} - checked
        if not owners:
            return places, wrong
        wrong |= unfaithful(in_eval, owners)
        # what has one graph for both modes cannot tell them apart: it need not be right twice
        wrong |= unfaithful(in_train, {path for path in owners if in_eval.graphs[path] is not in_train.graphs[path]})
        checked |= owners
        places = [place for place in places if not (place.needs_graph and place.site.owner in wrong)]


def find_sites(model: nn.Module, example_inputs: Any = None) -> list[Site]:
    """The sites of ``model``, in the order in which they run: see :func:`survey`."""
    return list(survey(model, example_inputs).sites)


def _check_model(model: nn.Module) -> None:
    check_is_network(model)
    refuse_unfit(model)
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
            hint="sesurgeon works on convolutional networks, not on pure transformers and perceptrons.",
        )


def _check_no_transformer(model: nn.Module) -> None:
    if any("attention" in type(module).__name__.lower() for module in model.modules()):
        convs = [path for path, module in model.named_modules() if ops.is_conv(module)]
        raise NoSiteError(
            f"{type(model).__name__} has no convolutional site: it is a transformer, whose convolutions "
            f"({', '.join(convs[:3])}{', …' if len(convs) > 3 else ''}) only make and pool its tokens.",
            hint="Channel attention scales feature maps; sesurgeon works on convolutional networks.",
        )


def _check_maps(local: LocalGraphs) -> None:
    if any(tensor.shape[2:].numel() == 1 for tensor in convolved(local)):
        raise NoSiteError(
            f"{type(local.model).__name__} has no site on inputs of shape {shapes_of(local.inputs)}: no residual "
            "branch, no multi-branch module, and no convolution with norm or activation but on maps of a single place.",
            hint="If maps are that small because the images are, give larger ones: --input-shape 2,3,224,224 "
            "(in Python: example_inputs=).",
        )
