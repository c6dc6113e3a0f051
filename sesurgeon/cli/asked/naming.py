"""Names of outputs."""

from __future__ import annotations

from pathlib import Path

from sesurgeon.errors import UsageError


def output_for(model: str, output: Path | None, suffix: str) -> Path:
    """Where a command on ``model`` writes: to ``output``, or else :func:`beside` it.

    Raises:
        UnreadableFileError: there is no such model. To be told so helps more than what is wrong with the output, whose
            name may be made of a misspelt one.
    """
    from sesurgeon.models import check_is_file, named_source

    if named_source(model) is None:
        check_is_file(Path(model))
    return output or beside(model, suffix)


def beside(model: str, suffix: str) -> Path:
    """The output of a command on ``model``: ``a/net.se.pt`` and ``a/net.pt`` give ``a/net`` + ``suffix``.

    An architecture gives a file in the working folder: ``timm:resnet50`` becomes ``resnet50`` + ``suffix``.
    """
    from sesurgeon.models import named_source

    source = named_source(model)
    if source is None:
        path = Path(model)
        return path.with_name(path.stem.removesuffix(".se") + suffix)
    return Path(source.name.replace("/", "_").rpartition(":")[2] + suffix)


def shown(path: Path) -> str:
    """``path`` as a command takes it: one that begins with a dash is no option."""
    return f"./{path}" if str(path).startswith("-") else str(path)


def check_is_another(output: Path, model: str) -> None:
    """Refuse to write what is less than a model over the ``model`` that it came from, whatever the user forces.

    Raises:
        UsageError: they are one file.
    """
    if output.resolve() == Path(model).resolve():
        raise UsageError(f"{output} is the model itself.", hint="Give another name with -o.")
