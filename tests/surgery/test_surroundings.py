"""Where surgery is done does not matter: under inference mode, in threads, on a network that is compiled in place."""

from __future__ import annotations

import inspect
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from sesurgeon import UsageError, add_se, apply_plan, find_sites, make_plan, remove_se
from sesurgeon.models.copies import copy_of, view_of
from sesurgeon.models.isolation import undisturbed
from sesurgeon.surgery import blocks_of
from tests.networks import FunctionalResNet, ResidualBlock

SMALL = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class WithKeywords(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, 1, 1)

    def forward(self, pixels: Tensor, labels: Tensor | None = None, *, scale: float = 1.0) -> Tensor:
        """The picture, scaled."""
        x = self.stem(pixels)
        return torch.relu(x + self.conv(x)) * scale


@pytest.mark.parametrize("inplace", [False, True])
def test_what_was_made_in_inference_mode_can_be_trained(inplace: bool) -> None:
    model = FunctionalResNet()
    with torch.inference_mode():
        augmented = add_se(model, SMALL, inplace=inplace)
    augmented.train()(SMALL).sum().backward()
    assert all(parameter.grad is not None for parameter in augmented.parameters())


def test_networks_in_several_threads_get_their_blocks_and_torch_stays_whole() -> None:
    call, lookup = nn.Module.__call__, nn.Module.__getattr__
    models = [FunctionalResNet() for _ in range(12)]
    with ThreadPoolExecutor(3) as threads:
        numbers = list(threads.map(lambda model: len(blocks_of(add_se(model, SMALL))), models))
    assert numbers == [2] * len(models)
    assert nn.Module.__call__ is call
    assert nn.Module.__getattr__ is lookup


@pytest.mark.parametrize("inplace", [False, True])
def test_a_network_that_was_compiled_in_place_is_seen_as_python(inplace: bool) -> None:
    model = FunctionalResNet().eval()
    expected = model(SMALL)
    model.compile(backend="eager")
    model(SMALL)
    compiled = model._compiled_call_impl
    augmented = add_se(model, SMALL, inplace=inplace)
    assert model._compiled_call_impl is compiled
    assert len(blocks_of(augmented)) == 2
    assert torch.equal(augmented(SMALL), expected)
    for block in blocks_of(augmented).values():
        nn.init.normal_(next(reversed(list(block.parameters()))))
    assert not torch.equal(augmented(SMALL), expected)


def test_a_network_without_weights_is_refused_before_it_runs() -> None:
    plan = make_plan(FunctionalResNet(), SMALL)
    with torch.device("meta"):
        model = FunctionalResNet()
    for operation in (lambda: add_se(model), lambda: find_sites(model, SMALL), lambda: apply_plan(model, plan)):
        with pytest.raises(UsageError, match=r"FunctionalResNet has no weights: .* meta device"):
            operation()
    with torch.device("meta"), pytest.raises(UsageError, match="nothing can be computed"):
        add_se(FunctionalResNet().to_empty(device="cpu"), SMALL)


def test_a_network_that_is_spread_over_processes_is_refused() -> None:
    class DTensor(nn.Parameter):
        """In place of torch's, which wants processes."""

    model = FunctionalResNet()
    next(model.children()).weight = DTensor(torch.ones(1))
    for operation in (lambda: add_se(model, SMALL), lambda: copy_of(model), lambda: view_of(model)):
        with pytest.raises(UsageError, match=r"is sharded: .*\.weight is spread over processes"):
            operation()


def test_a_numpy_array_is_no_example_input() -> None:
    with pytest.raises(UsageError, match=r"numpy array.\nGive a tensor"):
        add_se(FunctionalResNet(), SMALL.numpy())


def test_the_error_of_a_network_on_wrong_inputs_is_one_line() -> None:
    with pytest.raises(Exception, match=r"does not run .* got \(dict") as failure:
        add_se(FunctionalResNet(), {"image": SMALL})
    assert len(str(failure.value).splitlines()) == 2


def test_a_forward_keeps_its_signature_and_its_docstring() -> None:
    model = WithKeywords()
    augmented = add_se(model, SMALL)
    assert list(blocks_of(augmented)) == ["se"]
    assert inspect.signature(augmented.forward) == inspect.signature(model.forward)
    assert augmented.forward.__doc__ == "The picture, scaled."
    assert torch.equal(augmented(pixels=SMALL, scale=2.0), model(SMALL, scale=2.0))


def test_a_host_with_a_forward_of_its_own_gets_no_block_that_would_not_run() -> None:
    act = nn.ReLU()
    act.forward = lambda x: torch.tanh(x)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), act, ResidualBlock(8))
    augmented = add_se(model, SMALL, policy="conv")
    assert torch.equal(remove_se(augmented).eval()(SMALL), model.eval()(SMALL))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of a fork beside threads, which is what is tested
def test_a_fork_does_not_wait_for_a_thread_that_it_has_not_got() -> None:
    inside, done = threading.Event(), threading.Event()

    def stay() -> None:
        with undisturbed():
            inside.set()
            done.wait()

    thread = threading.Thread(target=stay)
    thread.start()
    inside.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        with undisturbed():
            os._exit(0)
    done.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0
