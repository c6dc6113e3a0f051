"""Arguments and options that several verbs share."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from sesurgeon.errors import UsageError

_READING = "How MODEL is read"
_TALKING = "What is printed"
_EXPONENTIAL = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A file (checkpoint, module, state dict), the folder of a run, timm:NAME, torchvision:NAME or "
        "factory:PKG.MOD:MAKE.",
    ),
]
OptionalModel = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="As for add-se; by default the newest result of the previous step in the working folder.",
        show_default=False,
    ),
]
Arch = Annotated[
    str | None,
    typer.Option(
        help="The architecture of a state dict: timm:NAME, torchvision:NAME or factory:PKG.MOD:FUNCTION.",
        show_default=False,
        rich_help_panel=_READING,
    ),
]
ModelKwargs = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="An argument of the architecture; its value is read as YAML. May be repeated.",
        show_default=False,
        rich_help_panel=_READING,
    ),
]
NumClasses = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Outputs of the architecture; read from the state dict by default.",
        show_default=False,
        rich_help_panel=_READING,
    ),
]
PreprocessingParts = Annotated[
    list[str] | None,
    typer.Option(
        "--preprocessing",
        metavar="KEY=VALUE",
        help="How images were prepared for MODEL, if its file does not say, or says something else: "
        "input_size=[3,224,224], mean=[0.5,0.5,0.5], std, interpolation, crop_pct or crop_mode, as in timm. May be "
        "repeated.",
        show_default=False,
        rich_help_panel=_READING,
    ),
]
Pretrained = Annotated[bool, typer.Option("--pretrained", help="Download published weights.", rich_help_panel=_READING)]
TrustPickle = Annotated[
    bool,
    typer.Option(
        "--trust-pickle",
        help="Let a pickled module run code while it is loaded: only for files whose origin you trust.",
        rich_help_panel=_READING,
    ),
]
OutputPath = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="OUT", help="Where to write.", show_default=False)
]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing output.")]
Json = Annotated[bool, typer.Option("--json", help="Print only the result, as JSON.", rich_help_panel=_TALKING)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print no notes and no progress.", rich_help_panel=_TALKING)]
Debug = Annotated[bool, typer.Option("--debug", help="Print tracebacks of errors.", rich_help_panel=_TALKING)]


@dataclass(frozen=True)
class Reading:
    """How MODEL is read: options of the verbs that take all of these."""

    arch: Arch = None
    model_kwargs: ModelKwargs = None
    num_classes: NumClasses = None
    pretrained: Pretrained = False
    trust_pickle: TrustPickle = False
    preprocessing: PreprocessingParts = None

    @property
    def typed(self) -> str:
        """The options that were typed, each with a space before it, to print a command with the same ones."""
        words = []
        for name, value in vars(self).items():
            flag = f" --{name.replace('_', '-')}"
            if value is True:
                words.append(flag)
            elif value is not None and value is not False:
                values = value if isinstance(value, list) else [value]
                words += [f"{flag} {shlex.quote(str(one))}" for one in values]
        return "".join(words)


@dataclass(frozen=True)
class Talking:
    """What is printed: options of every verb."""

    json: Json = False
    quiet: Quiet = False
    debug: Debug = False


def parse_kwargs(pairs: Sequence[str] | None, example: str = "--model-kwargs depth=4") -> dict[str, Any]:
    """Read ``KEY=VALUE``, each value as YAML: ``depth=4`` is a number, ``norm=batch`` a string.

    So is ``eps=1e-05`` a number, as in YAML 1.2 and in JSON; PyYAML reads YAML 1.1, where it would need a point.

    Raises:
        UsageError: a pair is not of that form.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """With numbers such as 1e-05."""

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENTIAL, list("-+.0123456789"))
    kwargs: dict[str, Any] = {}
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise UsageError(f"'{pair}' is not KEY=VALUE.", hint=f"Write, for example, {example}")
        try:
            kwargs[key] = yaml.load(value, Loader)
        except yaml.YAMLError as error:
            raise UsageError(f"The value of '{pair}' is not YAML.", hint="Quote it, as in key='\"a: b\"'.") from error
    return kwargs
