"""What kind of file ``export`` writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sesurgeon.cli.asked.calibrating import Calib
from sesurgeon.cli.asked.images import DataDir
from sesurgeon.cli.asked.selecting import InputShape
from sesurgeon.errors import UsageError

if TYPE_CHECKING:
    from sesurgeon.export import Precision

_ONCE_EACH = "Run export once for each."


@dataclass(frozen=True)
class Format:
    """The options that say what kind of file is written, as they were typed."""

    onnx: Annotated[bool, typer.Option("--onnx", help="Write one ONNX file: the default.", show_default=False)] = False
    plain: Annotated[
        bool,
        typer.Option(
            "--plain",
            help="Write plain gates, as timm's networks have them: to a state dict (.pth, .pt or .safetensors) or, "
            "with --onnx, to an ONNX file.",
            show_default=False,
        ),
    ] = False
    half: Annotated[
        bool, typer.Option("--half", help="ONNX with 16-bit weights: half the size.", show_default=False)
    ] = False
    int8: Annotated[
        bool,
        typer.Option("--int8", help="ONNX with int8 weights and activations; needs --calib.", show_default=False),
    ] = False
    calib: Calib = None
    data_dir: DataDir = "data"
    simplify: Annotated[
        bool, typer.Option("--simplify", help="Remove redundant nodes from an ONNX file with onnxslim.")
    ] = False
    for_cpu: Annotated[
        bool,
        typer.Option(
            "--for-cpu", help="ONNX in the form that is fastest in onnxruntime on CPUs: more nodes, but less time."
        ),
    ] = False
    pt2: Annotated[bool, typer.Option("--pt2", help="Write a .pt2 file for torch.export.load.", show_default=False)] = (
        False
    )
    opset: Annotated[
        int | None,
        typer.Option(min=1, help="ONNX opset version; by default torch's own choice.", show_default=False),
    ] = None
    all_outputs: Annotated[
        bool,
        typer.Option(
            "--all-outputs", help="Export all outputs of a network that has several; by default only the first."
        ),
    ] = False
    input_shape: InputShape = None

    def check(self) -> None:
        """Raise a UsageError for options that do not go together."""
        others = [*self._of_onnx, *(["--plain"] if self.plain else [])]
        if self.pt2 and others:
            raise UsageError(f"--pt2 cannot be combined with {', '.join(others)}.", hint=_ONCE_EACH)
        if self.half and self.int8:
            raise UsageError("--half and --int8 exclude each other.", hint=_ONCE_EACH)
        if self.for_cpu and self.precision != "float32":
            raise UsageError("--for-cpu is for float32, not for --half and --int8.", hint=_ONCE_EACH)
        if self.int8 != (self.calib is not None):
            raise UsageError(
                "--int8 needs --calib DATA, and --calib is for --int8: activations get their ranges from images.",
                hint="Give both, or leave both out.",
            )
        if self.opset is not None and self.kind != "onnx":
            raise UsageError("--opset is for ONNX files.", hint="Leave it out, or ask for an ONNX file.")
        if self.all_outputs and self.kind == "weights":
            raise UsageError("--all-outputs is for ONNX and .pt2 files.", hint="Leave it out, or ask for one of them.")
        if self.input_shape and self.kind == "weights":
            raise UsageError("--input-shape is for ONNX and .pt2 files.", hint="Give --onnx too, or leave it out.")
        if self.input_shape and self.calib is not None:
            raise UsageError("--input-shape is not for --calib, whose images have a size.", hint="Leave one out.")
        if self.calib is None and self.data_dir != "data":
            raise UsageError("--data-dir is for --calib.", hint="Give --calib too, or leave it out.")

    @property
    def kind(self) -> Literal["onnx", "pt2", "weights"]:
        """The file's format; "weights" stands for a state dict."""
        if self.pt2:
            return "pt2"
        return "weights" if self.plain and not self._of_onnx else "onnx"

    @property
    def precision(self) -> Precision:
        return "float16" if self.half else "int8" if self.int8 else "float32"

    @property
    def suffix(self) -> str:
        """The end of the file's name, if the user gave none."""
        if self.kind == "pt2":
            return ".pt2"
        variant = ".half" if self.half else ".int8" if self.int8 else ".cpu" if self.for_cpu else ""
        return (".plain" if self.plain else "") + variant + (".onnx" if self.kind == "onnx" else ".pth")

    @property
    def _of_onnx(self) -> list[str]:
        """The options that were given and mean an ONNX file."""
        given = {
            "--onnx": self.onnx,
            "--half": self.half,
            "--int8": self.int8,
            "--simplify": self.simplify,
            "--for-cpu": self.for_cpu,
        }
        return [name for name, is_given in given.items() if is_given]
