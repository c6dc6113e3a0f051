"""Files without a model that we can edit: each gets a message of its own, exit code 3, and no traceback."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import warnings
import zipfile

import pytest
import torch
from torch import nn

import sesurgeon
from sesurgeon.errors import UnreadableFileError, UsageError


def refusal(path: object, **options: object) -> UnreadableFileError:
    with pytest.raises(UnreadableFileError) as caught:
        sesurgeon.load(path, **options)
    assert caught.value.exit_code == 3
    assert str(path) in caught.value.message
    return caught.value


def test_a_missing_file_names_its_neighbours(tmp_path):
    (tmp_path / "resnet.pt").touch()
    (tmp_path / "notes.txt").touch()
    error = refusal(tmp_path / "resnt.pt")
    assert "no file" in error.message
    assert error.hint == "Nearest names: resnet.pt."


def test_a_missing_file_that_reads_like_an_architecture_says_how_to_name_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "timm:resnet50 or torchvision:resnet50" in refusal("resnet50").hint
    assert refusal("resnet50.pt").hint is None
    (tmp_path / "resnet50.se.pt").touch()
    hint = refusal("resnet50").hint
    assert "Nearest names: resnet50.se.pt. To name an architecture, write timm:resnet50" in hint


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("torchvison:resnet50", "torchvision:resnet50."),
        ("TIMM:resnet50", "timm:resnet50."),
        ("xyz:resnet50", "timm:resnet50 or torchvision:resnet50 or factory:resnet50."),
    ],
)
def test_a_misspelt_builder_gets_the_nearest(given, meant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refusal(given).hint == f"To name an architecture, write {meant}"


def test_a_link_to_nowhere_says_where_it_points(tmp_path):
    (tmp_path / "model.pt").symlink_to("gone.pt")
    error = refusal(tmp_path / "model.pt")
    assert error.message.endswith("model.pt is a link to gone.pt, where there is no file.")
    assert error.hint is None


@pytest.mark.parametrize("given", ["", None, torch.nn.ReLU(), b"model.pt"])
def test_what_is_neither_name_nor_path(given):
    with pytest.raises(UsageError):
        sesurgeon.load(given)


def test_a_missing_folder(tmp_path):
    assert "no file" in refusal(tmp_path / "nowhere" / "model.pt").message


def test_a_folder_lists_the_models_in_it(tmp_path):
    (tmp_path / "best.pth").touch()
    error = refusal(tmp_path)
    assert "is a folder" in error.message
    assert "best.pth" in error.hint


def test_an_empty_file(tmp_path):
    path = tmp_path / "model.pt"
    path.touch()
    assert "is empty" in refusal(path).message


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_not_waited_for(tmp_path):
    path = tmp_path / "model.pt"
    os.mkfifo(path)
    assert "not a regular file" in refusal(path).message


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_a_cut_off_zip(kept, saved):
    path = saved(nn.Linear(100, 100).state_dict())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    assert "cut off or damaged" in refusal(path).message


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_a_cut_off_legacy_file(kept, saved):
    path = saved(nn.Linear(100, 100).state_dict(), _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    assert "damaged" in refusal(path).message


@pytest.mark.parametrize("kept", [0.01, 0.5, 0.99])
def test_a_cut_off_safetensors_file(kept, tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "model.safetensors"
    save_file(nn.Linear(100, 100).state_dict(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    assert "damaged" in refusal(path).message


@pytest.mark.parametrize("content", [nn.Linear(4, 4), nn.Linear(4, 4).state_dict()], ids=["module", "weights"])
@pytest.mark.parametrize("trust_pickle", [False, True])
def test_a_damaged_pickle_in_a_whole_zip(content, trust_pickle, saved, tmp_path):
    path = saved(content)
    broken = tmp_path / "broken.pt"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(broken, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            target.writestr(name, data[: len(data) // 2] if name.endswith("data.pkl") else data)
    assert "damaged" in refusal(broken, trust_pickle=trust_pickle).message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"hello\n", "a text file.*'hello'"),
        ("übung\n".encode() * 1000, "a text file"),
        (b"<!DOCTYPE html>\n<html><title>Sign in</title></html>", "a web page"),
        (b"\n<html lang='en'>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "Git LFS pointer"),
        (b"\x1c\x00\x00\x00TFL3\x14\x00\x20\x00", "TensorFlow Lite"),
        (b"\x89HDF\r\n\x1a\n\x00\x00", "HDF5"),
        (b"\x93NUMPY\x01\x00v\x00{'descr'", "NumPy"),
        (b"GGUF\x03\x00\x00\x00\x00\x00", "GGUF"),
        (b"\x80\x04\x95\x10\x00", "pickle, but torch.save did not write it"),
        (b"\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09", "begins with the bytes 00 01 02 03"),
        (b"\xff" * 5000, "begins with the bytes ff ff"),
    ],
)
def test_a_file_of_another_kind_is_called_by_its_name(content, said, tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(UnreadableFileError, match=said):
        sesurgeon.load(path)


def test_a_compressed_file_and_a_tar_archive(tmp_path):
    path = tmp_path / "model.pth"
    path.write_bytes(gzip.compress(b"weights"))
    assert "gzip" in refusal(path).message
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("weights"), io.BytesIO())
    assert "tar archive" in refusal(path).message


def test_a_zip_that_torch_did_not_write(tmp_path):
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "torch.save did not write it" in refusal(path).message


@pytest.mark.parametrize("trust_pickle", [False, True])
def test_a_torchscript_archive_says_what_to_save_instead(trust_pickle, tmp_path):
    path = tmp_path / "model.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces the end of TorchScript
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), path)
    error = refusal(path, trust_pickle=trust_pickle)
    assert "TorchScript" in error.message
    assert "torch.save(model" in error.hint


@pytest.mark.parametrize("name", ["model.onnx", "model.pt"])
def test_an_onnx_model_is_told_by_name_or_content(name, tmp_path):
    onnx = pytest.importorskip("onnx")

    graph = onnx.helper.make_graph([], "empty", [], [])
    path = tmp_path / name
    path.write_bytes(onnx.helper.make_model(graph, producer_name="pytorch").SerializeToString())
    assert "ONNX" in refusal(path).message


@pytest.mark.parametrize("trust_pickle", [False, True])
def test_a_quantised_model(trust_pickle, saved):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao announces its move
        from torch.ao.nn.quantized import Conv2d

        path = saved(nn.Sequential(Conv2d(3, 4, 3), nn.ReLU()))
    assert "quantised" in refusal(path, trust_pickle=trust_pickle).message


def test_the_weights_of_a_quantised_model(saved):
    quantised = torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.qint8)
    path = saved({"state_dict": {"conv.weight": quantised, "conv.bias": torch.ones(2)}})
    assert "quantised" in refusal(path).message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"epoch": 3, "lr": 0.1}, "dictionary with the keys 'epoch', 'lr'"),
        ({}, "no weights"),
        (torch.ones(2, 3), r"a tensor of shape \(2, 3\)"),
        ([1, 2], "a list"),
        ("resnet50", "a str"),
    ],
)
def test_a_file_without_a_model_says_what_it_holds(content, said, saved):
    with pytest.raises(UnreadableFileError, match=said):
        sesurgeon.load(saved(content))
