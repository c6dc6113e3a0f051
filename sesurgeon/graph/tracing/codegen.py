"""From an fx graph to a plain Python method."""

from __future__ import annotations

import hashlib
import linecache
from collections.abc import Callable
from keyword import iskeyword
from types import FunctionType
from typing import Any

from torch import fx

from sesurgeon.errors import UntraceableError
from sesurgeon.models import is_plain_text


def compile_graph(graph: fx.Graph, name: str) -> Callable[..., Any]:
    """A ``forward(self, ...)`` that runs ``graph``, with the parameters of the forward that was traced.

    Args:
        graph: a local graph; ``self`` is the module that owns it.
        name: shown in the file name in tracebacks, which quote the generated source.

    Raises:
        UntraceableError: see :func:`check_names`.
    """
    for node in graph.nodes:
        check_names(node)
    code = graph.python_code("self")
    digest = hashlib.sha256(code.src.encode()).hexdigest()[:8]  # other code of the same name is another file
    filename = f"<sesurgeon {name} {digest}>"
    namespace: dict[str, Any] = dict(code.globals)
    exec(compile(code.src, filename, "exec"), namespace)
    linecache.cache[filename] = (len(code.src), None, code.src.splitlines(keepends=True), filename)
    forward: FunctionType = namespace["forward"]
    _give_defaults(forward, graph)
    return forward


def _give_defaults(forward: FunctionType, graph: fx.Graph) -> None:
    """Give optional arguments the very defaults of the forward that was traced: fx writes only what they print as."""
    defaults = {node.target: node.meta["default"] for node in graph.nodes if "default" in node.meta}
    code = forward.__code__
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    forward.__defaults__ = tuple(defaults[name] for name in names[: code.co_argcount] if name in defaults) or None
    keywords = {name: defaults[name] for name in names[code.co_argcount :] if name in defaults}
    forward.__kwdefaults__ = keywords or None


def check_names(node: fx.Node) -> None:
    """Refuse names that fx would write into the source unchanged, where they would mean something else.

    Raises:
        UntraceableError: a child, a parameter or an argument has such a name.
    """
    path = str(node.target).split(".") if node.op in ("call_module", "get_attr", "call_method") else []
    for name in path:
        if iskeyword(name) or not is_plain_text(name):
            raise UntraceableError(f"it has something called {name!a}, which no code can be written with")
    for name in node.kwargs:
        if iskeyword(name) or not name.isidentifier():
            raise UntraceableError(f"it calls something with an argument named {name!a}")
