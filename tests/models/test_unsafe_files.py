"""What must never run. Each payload would leave a file behind."""

from __future__ import annotations

import collections
import contextlib
import enum
import importlib
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.layers.format import Format
from torch import nn
from torch.nn import functional as F

import sesurgeon
from sesurgeon.errors import FileError, UnreadableFileError, UnsafeFileError, UntraceableError
from sesurgeon.graph import survey
from sesurgeon.graph.tracing.tracer import CallTracer
from sesurgeon.models import read, read_weights
from sesurgeon.models.files.allowlist import allowed
from sesurgeon.models.files.smuggling import smuggled
from tests.networks import OddNet


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> object:
        return os.mkdir, (str(self.mark),)


def leave_a_mark(path: Path) -> None:
    path.mkdir()


class Settings(dict):
    """A mapping of the user's own, as configurations are."""


class Names(list):
    """A list likewise."""


class Call:
    """Has something called when it is unpickled."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> object:
        return self.reduced


@pytest.fixture
def mark(tmp_path):
    return tmp_path / "the-payload-ran"


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "legacy"])
@pytest.mark.parametrize("wrap", [lambda it: it, lambda it: {"state_dict": {"w": torch.ones(1)}, "args": it}])
def test_a_payload_is_named_and_does_not_run(wrap, options, saved, mark):
    path = saved(wrap(Payload(mark)), **options)
    with pytest.raises(UnsafeFileError, match=r"(posix|nt)\.mkdir"):
        sesurgeon.load(path)
    assert not mark.exists()
    read(path, trust_pickle=True)
    assert mark.exists(), "the payload is a real one"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_bare_pickle_does_not_run(protocol, tmp_path, mark):
    path = tmp_path / "model.pt"
    path.write_bytes(pickle.dumps(Payload(mark), protocol=protocol))
    with pytest.raises(UnreadableFileError):
        read(path)
    assert not mark.exists()


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_a_payload_in_a_newer_protocol_does_not_run(protocol, saved, mark):
    with pytest.raises(UnsafeFileError):
        read(saved({"w": Payload(mark)}, pickle_protocol=protocol))
    assert not mark.exists()


def test_a_payload_hidden_in_a_model_does_not_run(saved, mark):
    model = nn.Sequential(nn.Linear(1, 1))
    model.extra = Payload(mark)
    with pytest.raises(UnsafeFileError):
        read(saved(model))
    assert not mark.exists()


@pytest.mark.parametrize(
    "name",
    [
        "torch.nn.modules.module.os.system",
        "torch.nn.modules.module.torch.hub.load",
        "torch.nn.modules.module.Module.load_state_dict",
        "torch.nn.modules.container.operator.attrgetter",
        "torch.nn.cpp.ModuleWrapper",
        "torch.nn.Module",
        "torchvision.models./tmp/evil.Net",
        "torchvision.models..resnet.ResNet",
        "timm.models.",
        "timm.models.nothing.Net",
        "timm.models.resnet.Net",
        "",
        "torch.hub.load",
        "torch.load",
        "torch.jit.load",
        "torch.fx.graph_module.GraphModule",
        "torch.fx.graph_module.reduce_graph_module",
        "torch.utils.cpp_extension.load_inline",
        "torch.serialization.load",
        "torchvision.datasets.utils.download_url",
        "torchvision.datasets.folder.ImageFolder",
        "torchvision.io.image.write_file",
        "torchvision.models._api.get_model",
        "torchvision.models.resnet.resnet18",
        "torchvision.models.feature_extraction.DualGraphModule",
        "torchvision.models.feature_extraction._CodeOnlyModule",
        "torchvision.transforms.transforms.Lambda",
        "torchvision.ops.misc.torch",
        "timm.models._hub.load_state_dict_from_hf",
        "timm.models._factory.create_model",
        "timm.models._helpers.load_checkpoint",
        "timm.models._builder.build_model_with_cfg",
        "timm.models.resnet.ResNet.load_state_dict",
        "timm.utils.model.load_checkpoint",
        "timm.layers.create_act.create_act_layer",
        "torch.ao.nn.quantized.modules.linear.Linear",
        "functools.partial",
        "builtins.getattr",
        "builtins.eval",
        "builtins.exec",
        "builtins.__import__",
        "operator.attrgetter",
        "os.system",
        "posix.system",
        "subprocess.Popen",
        "pathlib.Path.unlink",
        "numpy.load",
        "numpy.f2py.capi_maps.eval",
        "sesurgeon.files.atomic_write",
    ],
)
def test_a_name_that_is_no_network_and_no_plain_data_is_refused(name):
    assert allowed(name) is None


def test_a_class_that_runs_code_when_it_is_made_is_refused(monkeypatch):
    class Runs(nn.Module):
        __module__ = "timm.models.resnet"

        def __new__(cls):
            return super().__new__(cls)

    monkeypatch.setattr("timm.models.resnet.Runs", Runs, raising=False)
    assert allowed("timm.models.resnet.Runs") is None
    del Runs.__new__
    assert allowed("timm.models.resnet.Runs") is Runs


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("torch.nn.modules.module", "os.system"),
        ("torch.nn", "modules.module.os.system"),
        ("torchvision.datasets.utils", "download_url"),
        ("torchvision", "datasets.utils.download_url"),
    ],
)
def test_a_dotted_name_does_not_reach_through_a_module(module, name, saved_pickle):
    path = saved_pickle(f"\x80\x02c{module}\n{name}\nX\x01\x00\x00\x00x\x85R.".encode("latin-1"))
    with pytest.raises(UnsafeFileError, match=f"{module}.{name}".replace(".", r"\.")):
        read(path)


def test_refusing_a_name_does_not_import_it(tmp_path, monkeypatch, saved_pickle, mark):
    (tmp_path / "evil.py").write_text(f"import os\nos.mkdir({str(mark)!r})\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UnsafeFileError, match=r"evil\.Net"):
        read(saved_pickle(b"\x80\x02cevil\nNet\n)\x81."))
    assert not mark.exists()


def test_the_class_of_a_network_is_not_called(saved):
    with pytest.raises(UnsafeFileError, match=r"call of torch\.nn\.modules\.linear\.Linear"):
        read(saved({"model": Call(nn.Linear, 2, 2)}))


def test_a_function_on_tensors_is_not_called(saved):
    with pytest.raises(UnsafeFileError, match=r"call of torch\.nn\.functional\.relu"):
        read(saved([nn.ReLU(), Call(F.relu, torch.ones(1))]))


def test_a_function_that_calls_its_argument_is_not_called(saved):
    rebuild = torch._tensor._rebuild_from_type_v2
    with pytest.raises(UnsafeFileError, match=r"_rebuild_from_type_v2"):
        read(saved([nn.ReLU(), Call(rebuild, nn.Sigmoid, nn.Sigmoid, (), {})]))


RELU = b"ctorch.nn.modules.activation\nReLU\n"
STATE = b"}X\x0c\x00\x00\x00__setstate__" + RELU + b"s"


def test_an_object_is_not_filled_in_twice(saved_pickle):
    once = saved_pickle(b"\x80\x02" + RELU + b")\x81}b.")
    assert isinstance(read(once), nn.ReLU)
    twice = saved_pickle(b"\x80\x02" + RELU + b")\x81" + STATE + b"b}b.")
    with pytest.raises(UnsafeFileError, match="change of an object that was complete"):
        read(twice)
    through_the_memo = saved_pickle(b"\x80\x02" + RELU + b")\x81q\x00" + STATE + b"b0h\x00}b.".replace(b"0", b"q\x01"))
    with pytest.raises(UnsafeFileError, match="change of an object that was complete"):
        read(through_the_memo)


def test_a_method_is_not_replaced(saved):
    model = nn.Sequential(nn.ReLU())
    model[0].__dict__["forward"] = F.relu
    with pytest.raises(UnsafeFileError, match=r"ReLU\.forward"):
        read(saved({"epoch": 1, "model": model}))


@pytest.mark.parametrize("hide", [lambda it: [(it,)], lambda it: {it}, lambda it: {"a": it}])
def test_a_method_is_not_replaced_in_a_module_that_no_parent_lists(hide, saved):
    hidden = nn.ReLU()
    hidden.__dict__["forward"] = F.relu
    model = nn.Sequential(nn.ReLU())
    model.hidden = hide(hidden)
    with pytest.raises(UnsafeFileError, match=r"ReLU\.forward"):
        read(saved(model))


def test_a_compiled_call_is_not_put_in_place():
    model = nn.Sequential(nn.ReLU())
    assert smuggled(model) == []
    model[0].__dict__["_compiled_call_impl"] = F.relu  # which torch.save leaves out, but no forger need
    assert smuggled(model) == ["ReLU._compiled_call_impl"]


def test_weights_are_read_past_whatever_else_there_is(saved, mark):
    weight, payload = torch.ones(2, dtype=torch.bfloat16), Call(leave_a_mark, mark)
    state = {"weight": nn.Parameter(weight), "_extra_state": Settings(a=payload)}
    network = OddNet()
    network.settings = [Settings(b=[payload]), Names([payload]), collections.deque([payload])]
    content = {"state_dict": state, "module": network, "payload": [payload, Payload(mark)]}
    weights = read_weights(saved(content))
    assert weights.keys() == {"weight"}
    assert torch.equal(weights["weight"], weight)
    assert not mark.exists()


def test_weights_are_read_past_numbers_of_numpy(tmp_path) -> None:
    content = {"state_dict": {"weight": torch.ones(2)}, "rate": np.float64(0.1), "rates": np.linspace(0, 1, 3)}
    torch.save(content, tmp_path / "net.pt")
    assert [value.tolist() for value in read_weights(tmp_path / "net.pt").values()] == [[1.0, 1.0]]


def test_weights_do_not_come_from_a_payload(saved, mark):
    for content in ({"state_dict": Payload(mark)}, {"state_dict": Call(leave_a_mark, mark)}, [1]):
        with pytest.raises(FileError):
            read_weights(saved(content))
    assert not mark.exists()


def test_a_hook_is_not_hung_up(saved):
    model = nn.Sequential(nn.ReLU())
    model[0].register_forward_pre_hook(F.relu)
    with pytest.raises(UnsafeFileError, match=r"ReLU\._forward_pre_hooks"):
        read(saved(model))


def test_numpy_types_other_than_numbers_are_refused(saved_pickle):
    dtype = b"cnumpy\ndtype\nX\x02\x00\x00\x00O8\x85R"
    path = saved_pickle(b"\x80\x02cnumpy.core.multiarray\nscalar\n" + dtype + b"K\x01\x86R.")
    with pytest.raises(FileError):
        read(path)


def test_torch_keeps_no_name_allowed_afterwards(saved):
    before = set(torch.serialization.get_safe_globals())
    read(saved(nn.Linear(1, 1)))
    assert set(torch.serialization.get_safe_globals()) == before


def strangely_named(mark: Path, held: str) -> nn.Module:
    """fx writes names between double quotes; this one ends them, and would leave a mark."""
    name = f"""training"), open({str(mark)!r}, "w"), getattr(self, "training"""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    content = {"_modules": nn.ReLU(), "_parameters": nn.Parameter(torch.ones(1)), "_buffers": torch.ones(1)}[held]
    vars(model)[held][name] = content
    return model


@pytest.mark.parametrize("held", ["_modules", "_parameters", "_buffers"])
def test_a_name_that_is_code_is_refused(held, saved, mark):
    path = saved({"model": strangely_named(mark, held)})
    with pytest.raises(UnsafeFileError, match=r"Sequential\['training"):
        read(path)
    assert not mark.exists()


def test_a_name_that_is_code_is_not_run_in_a_network_that_is_trusted(mark):
    model = strangely_named(mark, "_modules")
    (left,) = survey(model, torch.randn(2, 3, 8, 8)).left_alone
    assert (left.path, "which no code can be written with" in left.reason) == ("", True)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["class", "a\nb", 'a"b', "a\\b"])
def test_a_name_that_would_be_other_code_is_left_alone(name):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    model.add_module(name, nn.ReLU())
    (left,) = survey(model, torch.randn(2, 3, 8, 8)).left_alone
    assert f"it has something called {name!a}" in left.reason


@pytest.mark.parametrize("name", ["a-b", "größe", "it's", "1"])
def test_odd_names_are_followed(name):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    model.add_module(name, nn.ReLU())
    assert survey(model, torch.randn(2, 3, 8, 8)).left_alone == ()


class Renamed:
    """timm's format, which everybody shares, with a name that would be written into code."""

    def __init__(self, mark: Path) -> None:
        self.name = f"NHWC if open({str(mark)!r}, 'w') else 0"

    def __reduce__(self) -> object:
        return Format, ("NHWC",), {"_name_": self.name}


def test_a_member_of_an_enumeration_is_not_changed(saved, mark):
    model = nn.Sequential(nn.ReLU())
    model[0].__dict__["inplace"] = Renamed(mark)
    with pytest.raises(UnsafeFileError, match="change of an object that was complete"):
        read(saved(model))
    assert Format.NHWC.name == "NHWC"


class Kinds(enum.Enum):
    ONE = 1


def test_a_member_with_another_name_gets_into_no_code(mark, monkeypatch):
    monkeypatch.setattr(Kinds.ONE, "_name_", f"ONE, open({str(mark)!r}, 'w')")
    with pytest.raises(UntraceableError, match="a Kinds that is none"):
        CallTracer.create_arg(CallTracer.__new__(CallTracer), Kinds.ONE)


@pytest.mark.parametrize("target", ["sesurgeon.models.provenance\nProvenance", "torch._utils\n_rebuild_tensor_v2"])
def test_reading_weights_changes_nothing_that_a_pickle_names(target: str, saved_pickle) -> None:
    module, _, name = target.partition("\n")
    named = getattr(importlib.import_module(module), name)
    names = set(vars(named))
    mapping = b"}X\x05\x00\x00\x00added" + b"N" + b"s"  # {"added": None}, as the state of slots
    changes = b"c" + target.encode() + b"\n" + b"N" + mapping + b"\x86b"
    path = saved_pickle(b"\x80\x02}(X\x0a\x00\x00\x00state_dict}X\x01\x00\x00\x00x" + changes + b"u.")
    with contextlib.suppress(FileError):
        read_weights(path)
    assert set(vars(named)) == names
