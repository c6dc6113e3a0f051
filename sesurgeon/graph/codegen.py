"""From an fx graph to a plain Python method."""

from __future__ import annotations

import hashlib
import linecache
from collections.abc import Callable
from typing import Any

from torch import fx


def compile_graph(graph: fx.Graph, name: str) -> Callable[..., Any]:
    """``forward(self, ...)`` that does what ``graph`` says, with the signature of the forward that was traced.

    Args:
        graph: a local graph; ``self`` is the module that owns it.
        name: shown in the file name in tracebacks, which quote the generated source.
    """
    code = graph.python_code("self")
    digest = hashlib.sha256(code.src.encode()).hexdigest()[:8]  # other code of the same name is another file
    filename = f"<sesurgeon {name} {digest}>"
    namespace: dict[str, Any] = dict(code.globals)
    exec(compile(code.src, filename, "exec"), namespace)
    linecache.cache[filename] = (len(code.src), None, code.src.splitlines(keepends=True), filename)
    forward: Callable[..., Any] = namespace["forward"]
    return forward
