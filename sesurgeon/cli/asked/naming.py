"""Names of output files."""

from __future__ import annotations

from pathlib import Path

from sesurgeon.cli.asked.finding import best_of_run
from sesurgeon.errors import UsageError


def output_for(model: str, output: Path | None, suffix: str) -> Path:
    """The output of a command on ``model``: ``output``, or else a file :func:`beside` it.

    Raises:
        UnreadableFileError: there is no such model. This is checked first, because an error about an output whose name
            comes from a misspelt model would not help.
        UsageError: the output is the model's own file.
    """
    from sesurgeon.models import check_is_file, named_source

    model = best_of_run(model)
    if named_source(model) is None:
        check_is_file(Path(model))
    path = output or beside(model, suffix)
    check_is_another(path, model)
    return path


def beside(model: str, suffix: str) -> Path:
    """The default output of a command: ``a/net.se.pt`` and ``a/net.pt`` give ``a/net`` + ``suffix``.

    An architecture gives a file in the working folder: ``timm:resnet50`` becomes ``resnet50`` + ``suffix``.
    """
    from sesurgeon.models import named_source

    source = named_source(model)
    if source is None:
        path = Path(model)
        return path.with_name(path.stem.removesuffix(".se") + suffix)
    return Path(source.name.replace("/", "_").rpartition(":")[2] + suffix)


def shown(path: Path) -> str:
    """``path`` as it can be typed: if it begins with a dash, it must not look like an option."""
    return f"./{path}" if str(path).startswith("-") else str(path)


def check_is_another(output: Path, model: str) -> None:
    """Refuse to replace ``model``, which may be all that somebody has of it, even with ``--force``.

    Raises:
        UsageError: they are the same file.
    """
    if output.resolve() == Path(best_of_run(model)).resolve():
        raise UsageError(f"{output} is the model itself.", hint="Give another name with -o.")
