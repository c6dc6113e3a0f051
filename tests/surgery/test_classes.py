"""The classes that surgery makes: copied freely, never pickled, and unknown to the classes they are made from."""

from __future__ import annotations

import abc
import copy
import io
import pickle
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from sesurgeon import UsageError, add_se, remove_se
from sesurgeon.surgery import blocks_of
from tests.networks import FunctionalResNet

SMALL = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Registered(FunctionalResNet):
    known: ClassVar[dict[str, type]] = {}

    def __init_subclass__(cls, *, name: str, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Registered.known[name] = cls


class Named(Registered, name="named"):
    pass


class Abstract(FunctionalResNet, abc.ABC):
    pass


class CopiesItself(FunctionalResNet):
    def __deepcopy__(self, memo: dict[int, Any]) -> CopiesItself:
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__dict__ = copy.deepcopy(self.__dict__, memo)
        copied.__dict__["copied"] = True
        return copied


CLASSES = [FunctionalResNet, Named, Abstract, CopiesItself]


@pytest.mark.parametrize("make", CLASSES)
@pytest.mark.parametrize("write", [pickle.dumps, lambda model: torch.save(model, io.BytesIO())])
def test_pickling_says_what_to_do_instead(make: type[nn.Module], write: Any) -> None:
    augmented = add_se(make(), example_inputs=SMALL)
    for model in (augmented, nn.Sequential(augmented)):
        with pytest.raises(UsageError, match=rf"A {make.__name__} with inserted blocks.*\n.*sesurgeon\.save"):
            write(model)
    assert write(remove_se(augmented)) != b""


@pytest.mark.parametrize("make", CLASSES)
def test_copies_have_the_blocks_and_compute_the_same(make: type[nn.Module]) -> None:
    augmented = add_se(make(), example_inputs=SMALL, init="random").eval()
    for copied in (copy.deepcopy(augmented), copy.copy(augmented), copy.deepcopy(nn.Sequential(augmented))[0]):
        assert isinstance(copied, make)
        assert len(blocks_of(copied)) == 2
        assert torch.equal(copied(SMALL), augmented(SMALL))
    assert type(remove_se(augmented)) is make


def test_a_copy_is_made_as_the_class_itself_would_make_it() -> None:
    assert vars(copy.deepcopy(add_se(CopiesItself(), example_inputs=SMALL)))["copied"] is True


def test_a_class_that_watches_its_subclasses_sees_none_of_ours() -> None:
    before = dict(Registered.known)
    augmented = add_se(Named(), example_inputs=SMALL)
    assert len(blocks_of(augmented)) == 2
    assert Registered.known == before == {"named": Named}


@pytest.mark.filterwarnings("ignore")  # deprecation of torch.jit
def test_the_tracer_of_torch_takes_it() -> None:
    augmented = add_se(FunctionalResNet(), example_inputs=SMALL, init="random").eval()
    torch.testing.assert_close(torch.jit.trace(augmented, (SMALL,))(SMALL), augmented(SMALL))
