"""Names of modules and tensors, as ``named_modules`` has them."""

from __future__ import annotations


def join(path: str, name: object) -> str:
    """The name of a child or tensor ``name`` of the module ``path``, in the whole network, whose own path is ""."""
    return f"{path}.{name}".lstrip(".")


def is_within(path: str, module: str) -> bool:
    """Whether ``path`` is that of ``module``, or of something inside it; all is inside the network itself, ""."""
    return not module or f"{path}.".startswith(f"{module}.")
