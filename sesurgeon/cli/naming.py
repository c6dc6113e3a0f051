"""Names of outputs that the user did not name."""

from __future__ import annotations

from pathlib import Path


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
