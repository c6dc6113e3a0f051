"""Names of modules and tensors, as ``named_modules`` has them."""

from __future__ import annotations

from collections.abc import Iterable


def join(path: str, name: object) -> str:
    """The full name of a child or tensor ``name`` of the module at ``path``, which is "" for the network itself."""
    return f"{path}.{name}".lstrip(".")


def is_within(path: str, module: str) -> bool:
    """Whether ``path`` is that of ``module``, or of something inside it; the network itself, "", contains all paths."""
    return not module or f"{path}.".startswith(f"{module}.")


def is_within_any(path: str, modules: Iterable[str]) -> bool:
    """Whether ``path`` is that of one of ``modules``, or of something inside one."""
    return any(is_within(path, module) for module in modules)
