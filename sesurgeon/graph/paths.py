"""Names of modules and tensors, as ``named_modules`` has them."""

from __future__ import annotations


def join(path: str, name: object) -> str:
    """The name of a child or tensor ``name`` of the module ``path``, in the whole network, whose own path is ""."""
    return f"{path}.{name}".lstrip(".")
