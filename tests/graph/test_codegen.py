from __future__ import annotations

import inspect

import torch
from torch import fx

from sesurgeon.graph import compile_graph


def doing(operation: object) -> fx.Graph:
    graph = fx.Graph()
    owner, x = graph.placeholder("self"), graph.placeholder("x")
    graph.output(graph.call_function(operation, (x,)))
    assert owner.name == "self"
    return graph


def test_each_code_of_one_name_is_quoted_from_its_own_file() -> None:
    relu, tanh = compile_graph(doing(torch.relu), "layer"), compile_graph(doing(torch.tanh), "layer")
    assert "torch.relu" in inspect.getsource(relu)
    assert "torch.tanh" in inspect.getsource(tanh)
    assert relu.__code__.co_filename.startswith("<sesurgeon layer ")
    assert compile_graph(doing(torch.relu), "layer").__code__.co_filename == relu.__code__.co_filename
