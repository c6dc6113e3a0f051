from __future__ import annotations

import json
import math
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import nn
from typer.testing import CliRunner, Result

import sesurgeon
from sesurgeon import UntraceableError
from sesurgeon.cli.app import app
from sesurgeon.models import Source
from sesurgeon.surgery import blocks_of
from tests.networks import OddNet, SizedBlock

SHAPE = ("--input-shape", "2,3,64,64")
FACTORY = "from tests.networks import OddNet\n\n\ndef make(classes=5):\n    return OddNet(classes)\n"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(sesurgeon.__file__).parents[1])}


def run(*words: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["add-se", *words])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def shufflenet() -> nn.Module:
    return torchvision.models.shufflenet_v2_x0_5(num_classes=3)


def check(path: Path, original: nn.Module, **options: object) -> None:
    """The file gives back what the original computes, with blocks in it."""
    again = sesurgeon.load(path, **options)  # type: ignore[arg-type]
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(again(images), original.eval()(images))
    assert blocks_of(again)


def test_random_weights_are_told(here: Path) -> None:
    said = "torchvision:shufflenet_v2_x0_5 has random weights: --pretrained takes published ones, if there are any."
    assert said in run("torchvision:shufflenet_v2_x0_5", *SHAPE, "--dry-run").stderr
    assert said not in run("torchvision:shufflenet_v2_x0_5", *SHAPE, "--dry-run", "--quiet").stderr
    torch.save(shufflenet().state_dict(), here / "state.pt")
    assert "random" not in run("state.pt", "--arch", "torchvision:shufflenet_v2_x0_5", *SHAPE).stderr


def test_a_whole_module_of_torchvision_needs_no_flag(here: Path) -> None:
    model = shufflenet()
    torch.save(model, here / "model.pt")
    printed = run("model.pt", *SHAPE).stdout
    for words in (
        "stage4.3:residual",
        "bit-identical, in train mode bit-identical",
        "Written: model.se.pt",
    ):
        assert words in printed
    check(here / "model.se.pt", model)


def test_a_whole_module_of_timm_needs_no_flag(here: Path) -> None:
    model = timm.create_model("resnet10t", num_classes=3)
    torch.save(model, here / "model.pth")
    run("model.pth", *SHAPE)
    check(here / "model.se.pt", model)


@pytest.mark.parametrize(("name", "wrap"), [
    ("bare.pt", lambda state: state),
    ("checkpoint.pth", lambda state: {"epoch": 3, "state_dict": state, "optimizer": {"lr": 0.1}}),
    ("parallel.bin", lambda state: {"model": {f"module._orig_mod.{key}": value for key, value in state.items()}}),
])  # fmt: skip
def test_a_state_dict_needs_its_architecture(here: Path, name: str, wrap: object) -> None:
    model = shufflenet()
    torch.save(wrap(model.state_dict()), here / name)  # type: ignore[operator]
    refused = run(name, *SHAPE, code=2)
    assert "--arch" in refused.stderr
    run(name, "--arch", "torchvision:shufflenet_v2_x0_5", *SHAPE)
    check(here / f"{Path(name).stem}.se.pt", model)


def test_safetensors_and_a_factory(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import save_file

    monkeypatch.setattr(sys, "path", [*sys.path])
    (here / "my_factory_of_nets.py").write_text(FACTORY)
    model = OddNet(classes=4)
    save_file(model.state_dict(), here / "odd.safetensors")
    arch = "factory:my_factory_of_nets:make"
    note = run("odd.safetensors", "--arch", arch, "--model-kwargs", "classes=4", "--input-shape", "2,3,16,16").stderr
    assert f"--arch {arch} --model-kwargs classes=4" in " ".join(note.split())
    check(here / "odd.se.pt", model, arch=Source.parse(arch, {"classes": 4}))


def test_a_module_of_other_classes_is_refused_by_name_and_loads_when_trusted(here: Path) -> None:
    model = OddNet()
    torch.save(model, here / "odd.pt")
    refused = run("odd.pt", code=3)
    assert "tests.networks.OddNet" in refused.stderr
    assert "--trust-pickle" in refused.stderr
    assert not (here / "odd.se.pt").exists()
    run("odd.pt", "--trust-pickle", "--input-shape", "2,3,16,16")
    check(here / "odd.se.pt", model, trust_pickle=True)


def test_a_malicious_pickle_is_refused_without_running(here: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return os.system, (f"touch {here / 'owned'}",)

    torch.save({"state_dict": Payload()}, here / "model.pt")
    (here / "old.pt").write_bytes(pickle.dumps(Payload()))
    assert "system" in run("model.pt", code=3).stderr
    run("old.pt", code=3)
    run("model.pt", "--arch", "torchvision:resnet18", code=3)
    assert not (here / "owned").exists()


def test_an_architecture_by_name(here: Path) -> None:
    run("torchvision:shufflenet_v2_x0_5", *SHAPE, "-o", "out.pt", "--stages", "5")
    assert len(blocks_of(sesurgeon.load(here / "out.pt"))) == 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--policy", "nope"), "nope"),
        (("--block", "nope"), "nope"),
        (("--stages", "two"), "--stages two"),
        (("--plan", "gone.yaml"), "gone.yaml"),
    ],
)
def test_wrong_settings_are_told_before_an_output_that_exists(here: Path, words: tuple[str, str], said: str) -> None:
    (here / "model.pt").touch()
    (here / "model.se.pt").touch()
    result = CliRunner().invoke(app, ["add-se", "model.pt", *words])
    assert result.exit_code in (2, 3)
    assert said in result.stderr
    assert "exists already" not in result.stderr


def test_an_output_whose_name_is_too_long_wants_another(here: Path) -> None:
    name = "n" * 251  # to which .pt can be added, but not .se.pt
    (here / f"{name}.pt").touch()
    refused = run(f"{name}.pt", code=1)
    assert refused.stderr.splitlines() == [
        f"Error: The output {name}.se.pt cannot be written: its name is too long.", "Give another name with -o.",
    ]  # fmt: skip


def test_an_output_that_reads_like_an_option_is_shown_as_a_path(here: Path) -> None:
    torch.save(shufflenet(), here / "-m.pt")
    assert "Written: ./-m.se.pt" in run("./-m.pt", *SHAPE).stdout


def test_a_dry_run_writes_nothing(here: Path) -> None:
    assert "Nothing was written" in run("torchvision:shufflenet_v2_x0_5", *SHAPE, "--dry-run").stdout
    assert list(here.iterdir()) == []


def test_json_is_alone_on_stdout_and_counts_truly(here: Path) -> None:
    result = run("torchvision:resnet18", *SHAPE, "--json")
    data = json.loads(result.stdout)
    model = sesurgeon.load(here / "resnet18.se.pt")
    counted = sum(p.numel() for p in model.parameters())
    assert data["after"]["parameters"] == counted
    assert data["after"]["parameters"] - data["before"]["parameters"] == 90_112
    assert sum(block["parameters"] for block in data["blocks"]) == 90_112
    assert sum(block["macs"] for block in data["blocks"]) == data["after"]["macs"] - data["before"]["macs"]
    assert data["proof"] == {"in_eval": True, "in_train": True, "note": ""}
    assert [block["path"] for block in data["blocks"]] == list(blocks_of(model))


def sized() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), SizedBlock(16), nn.ReLU(), SizedBlock(16))


def test_modules_that_went_by_the_size_of_the_images_are_named(here: Path) -> None:
    torch.save(sized(), "sized.pt")
    said = "Warning: 1, 3 went by sizes of the input."
    printed = run("sized.pt", "--trust-pickle", *SHAPE, "--json")
    assert said in printed.stderr
    assert json.loads(printed.stdout)["steered"] == ["1", "3"]
    augmented = sesurgeon.load("sized.se.pt", trust_pickle=True)
    with pytest.raises(UntraceableError, match="SizedBlock: a shape or number that the forward goes by was True"):
        augmented(torch.randn(2, 3, 8, 8))


def test_random_initialisation_says_that_there_is_nothing_to_prove(here: Path) -> None:
    printed = run("torchvision:shufflenet_v2_x0_5", *SHAPE, "--init", "random").stdout
    assert "not compared" in printed
    assert "by design" in printed


def test_attention_that_is_there_is_said(here: Path) -> None:
    printed = run("torchvision:mobilenet_v3_small", *SHAPE, "--dry-run").stdout
    assert "has attention already" in printed


@pytest.mark.parametrize("what", ["module", "state_dict"])
def test_only_the_library_may_write_over_the_file_that_it_reads(what: str, here: Path) -> None:
    model = shufflenet()
    torch.save(model if what == "module" else model.state_dict(), here / "model.pt")
    before = (here / "model.pt").read_bytes()
    arch = None if what == "module" else "torchvision:shufflenet_v2_x0_5"
    words = () if arch is None else ("--arch", arch)
    refused = run("model.pt", *words, *SHAPE, "-o", "./model.pt", "--force", code=2).stderr
    assert "model.pt is the model itself" in refused
    assert (here / "model.pt").read_bytes() == before
    loaded = sesurgeon.load("model.pt", arch=arch)  # mapped into memory
    sesurgeon.save(sesurgeon.add_se(loaded, torch.zeros(2, 3, 64, 64)), "model.pt", force=True)
    check(here / "model.pt", model)


def test_an_existing_output_stays_without_force(here: Path) -> None:
    (here / "resnet18.se.pt").write_text("mine")
    assert "--force" in run("torchvision:resnet18", code=1).stderr
    assert (here / "resnet18.se.pt").read_text() == "mine"
    run("torchvision:resnet18", *SHAPE, "--force")
    assert blocks_of(sesurgeon.load(here / "resnet18.se.pt"))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions, and lets few make links")
def test_a_secret_output_stays_secret_and_a_linked_one_linked(here: Path) -> None:
    (here / "secret.pt").touch(0o600)
    (here / "resnet18.se.pt").symlink_to("secret.pt")
    run("torchvision:resnet18", *SHAPE, "--force")
    assert (here / "resnet18.se.pt").is_symlink()
    assert (here / "secret.pt").stat().st_mode & 0o777 == 0o600
    assert blocks_of(sesurgeon.load(here / "secret.pt"))


@pytest.mark.parametrize(("words", "code", "message"), [
    (("no.pt",), 3, "no.pt"),
    (("folder",), 3, "folder"),
    (("empty.pt",), 3, "empty"),
    (("text.pt",), 3, "text"),
    (("torn.pt",), 3, "torn.pt"),
    (("script.pt",), 3, "TorchScript"),
    (("timm:resnet5O",), 2, "resnet50"),
    (("torchvision:quantized_resnet18",), 2, "quantized_resnet18"),
    (("linear.pt",), 4, "no convolution"),
    (("net.pt", "--include", "layer9*", *SHAPE), 4, "stage2.1:residual"),
    (("net.pt", "--policy", "everywhere"), 2, "standard"),
    (("net.pt", "--init", "zeros"), 2, "identity"),
    (("net.pt", "--rd-ratio", "0"), 2, "rd_ratio"),
    (("net.pt", "--stages", "two"), 2, "--stages"),
    (("net.pt", "--input-shape", "3,-1,4"), 2, "--input-shape"),
    (("net.pt", "--input-shape", "2,5,64,64"), 4, "does not run in eval mode"),
    (("nan.pt", "--input-shape", "2,3,32,32"), 5, "outputs of ShuffleNetV2 are NaN or infinite"),
    (("net.pt", "-o", "nowhere/out.pt"), 1, "nowhere"),
    (("state.pt", "--arch", "torchvision:resnet18"), 2, "conv1"),
    (("state.pt", "--arch", "resnet18"), 2, "timm:NAME"),
])  # fmt: skip
def test_bad_input_has_one_clear_message_and_its_exit_code(
    here: Path, words: tuple[str, ...], code: int, message: str
) -> None:
    (here / "folder").mkdir()
    (here / "empty.pt").write_bytes(b"")
    (here / "text.pt").write_text("this is no model\n")
    if words[0] in ("net.pt", "state.pt", "torn.pt"):
        torch.save(shufflenet(), here / "net.pt")
        torch.save(shufflenet().state_dict(), here / "state.pt")
        (here / "torn.pt").write_bytes((here / "net.pt").read_bytes()[:5000])
    if words[0] == "nan.pt":
        model = shufflenet()
        nn.init.constant_(model.fc.weight, math.nan)
        torch.save(model, here / "nan.pt")
    if words[0] == "linear.pt":
        torch.save(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), here / "linear.pt")
    if words[0] == "script.pt":
        with zipfile.ZipFile(here / "script.pt", "w") as archive:
            archive.writestr("script/code/__torch__.py", "class Net(Module): pass")
            archive.writestr("script/constants.pkl", b"\x80\x02).")
            archive.writestr("script/data.pkl", b"\x80\x02).")
            archive.writestr("script/version", "3\n")
    before = {path: path.stat().st_mtime_ns for path in here.iterdir()}
    result = run(*words, code=code)
    assert message in result.stderr
    assert result.stdout == ""
    assert {path: path.stat().st_mtime_ns for path in here.iterdir()} == before


def test_a_read_only_folder_is_refused_before_any_work(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    assert "read-only" in run("torchvision:resnet18", code=1).stderr


def test_a_full_disk_leaves_nothing(here: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    torch.save(shufflenet(), here / "net.pt")
    program = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000));"
        "from sesurgeon.cli.app import main; main()"
    )
    words = ["add-se", "net.pt", "--input-shape", "2,3,64,64"]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 1, done.stderr
    assert "Writing net.se.pt failed" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in here.iterdir()] == ["net.pt"]


def interrupted(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """What came of add-se, run by a program that interrupts it; there is nothing in the folder."""
    words = ["add-se", "torchvision:resnet18", *SHAPE]
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, cwd=folder, env=ENVIRONMENT
    )
    assert done.returncode == 130, done.stderr
    assert list(folder.iterdir()) == []
    return done


def test_ctrl_c_exits_130_and_leaves_nothing(here: Path) -> None:
    program = (
        "import os, signal, threading;"
        "from sesurgeon.cli.app import main; from sesurgeon.graph.tracing.session import TracingSession;"
        "signal.signal(signal.SIGINT, signal.default_int_handler);"  # it is ignored where the tests run in the back
        "run, key = TracingSession.run, threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGINT));"
        "TracingSession.run = lambda *args: (key.start(), run(*args)); main()"
    )
    done = interrupted(program, here)
    assert done.stderr.splitlines()[-1] == "Interrupted."
    assert "Traceback" not in done.stderr


def test_ctrl_c_while_torch_loads_numpy_is_not_lost(here: Path) -> None:
    program = (
        "import signal, sys; from importlib.abc import MetaPathFinder; from sesurgeon.cli.app import main;"
        "signal.signal(signal.SIGINT, signal.default_int_handler);"
        "press = lambda key: (sys.meta_path.remove(key), signal.raise_signal(signal.SIGINT))[0];"  # once
        "key = lambda self, name, *_: press(self) if name == 'numpy.linalg' else None;"
        "sys.meta_path.insert(0, type('Key', (MetaPathFinder,), {'find_spec': key})()); main()"
    )
    done = interrupted(program, here)
    assert done.stderr == "Interrupted.\n"


def test_inspect_names_sites_costs_and_reasons(here: Path) -> None:
    result = CliRunner().invoke(app, ["inspect", "torchvision:mobilenet_v3_small", *SHAPE])
    assert result.exit_code == 0, result.output
    for words in (
        "2,542,856 parameters",
        "features.2:residual",
        "has attention already",
        "What add-se would do (policy standard, 2 blocks)",
    ):
        assert words in result.stdout
    data = json.loads(CliRunner().invoke(app, ["inspect", "torchvision:mobilenet_v3_small", *SHAPE, "--json"]).stdout)
    assert {"path": "features.4", "reason": "has attention already: features.4.block.2"} in data["left_alone"]
    data = json.loads(CliRunner().invoke(app, ["inspect", "torchvision:resnet50", *SHAPE, "--json"]).stdout)
    chosen = [site for site in data["sites"] if site["chosen"]]
    assert len(chosen) == 16
    assert sum(site["cost"]["parameters"] for site in chosen) == 2_530_992


def test_torchvision_work_does_not_import_timm(tmp_path: Path) -> None:
    at_end = "atexit.register(lambda: print('timm' in sys.modules))"
    code = f"import atexit, sys; {at_end}; from sesurgeon.cli.app import main; main()"
    arguments = ["add-se", "torchvision:resnet18", "--input-shape", "2,3,32,32", "-o", str(tmp_path / "net.se.pt")]
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "False"
