"""The command as a whole."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, get_args

import pytest
import typer
from typer.testing import CliRunner

import sesurgeon
from sesurgeon.blocks.config import BlockName, GateName, Init, Squeeze
from sesurgeon.cli.app import app
from sesurgeon.cli.registry import SUMMARIES
from sesurgeon.export import Runtime
from sesurgeon.finetune.config import METRICS, MULTI_LABEL_METRICS, AmpDtype, Device, OnBadImage, Schedule, Train
from sesurgeon.placement.policies import POLICIES

run = CliRunner().invoke


def test_help_lists_the_verbs() -> None:
    result = run(app, ["--help"])
    assert result.exit_code == 0
    assert "export" in result.stdout
    assert "version" in result.stdout


def test_the_list_of_verbs_says_what_they_say_of_themselves() -> None:
    listed = run(app, ["--help"], env={"COLUMNS": "300"}).stdout
    for verb, summary in SUMMARIES.items():
        assert f"│ {verb} " in listed
        assert summary in listed
        assert summary in run(app, [verb, "--help"], env={"COLUMNS": "300"}).stdout


@pytest.mark.parametrize(
    "arguments", [["--help"], ["finetune", "--help"], ["adapter", "--help"], ["finetune", "--no-such-option"]]
)
def test_help_never_import_torch(arguments: list[str]) -> None:
    outcome = after("app(standalone_mode=False)", *arguments)
    assert outcome[-1] == "torch: False"


@pytest.mark.parametrize(
    ("typed", "completed"),
    [("pl", "plan"), ("add-se net.pt --pol", "--policy"), ("add-se net.pt --policy inn", "inner")],
)
def test_completion_never_imports_torch(monkeypatch: pytest.MonkeyPatch, typed: str, completed: str) -> None:
    for name, value in {
        "_SESURGEON_COMPLETE": "complete_bash",
        "COMP_WORDS": f"sesurgeon {typed}",
        "COMP_CWORD": str(len(typed.split())),
    }.items():
        monkeypatch.setenv(name, value)
    assert after("app(prog_name='sesurgeon')") == [completed, "torch: False"]


COMPLETED = {
    ("add-se", "policy"): POLICIES,
    ("add-se", "block"): get_args(BlockName),
    ("add-se", "squeeze"): get_args(Squeeze),
    ("add-se", "gate"): get_args(GateName),
    ("add-se", "init"): get_args(Init),
    ("finetune", "train"): get_args(Train),
    ("finetune", "sched"): get_args(Schedule),
    ("finetune", "amp_dtype"): get_args(AmpDtype),
    ("finetune", "device"): get_args(Device),
    ("finetune", "on_bad_image"): get_args(OnBadImage),
    ("finetune", "eval_metric"): (*METRICS, *MULTI_LABEL_METRICS),
    ("benchmark", "runtime"): get_args(Runtime),
}


@pytest.mark.parametrize(("verb", "option"), COMPLETED, ids="_".join)
def test_shells_complete_the_names_that_the_library_takes(verb: str, option: str) -> None:
    command: Any = typer.main.get_command(app)
    found = command.get_command(None, verb)
    (parameter,) = [one for one in found.params if one.name == option]
    context = found.make_context(verb, [], resilient_parsing=True)
    assert {one.value for one in parameter.shell_complete(context, "")} == set(COMPLETED[verb, option])
    assert parameter.shell_complete(context, "zz") == []


def after(call: str, *arguments: str) -> list[str]:
    """What a process prints that ends by saying whether it imported torch."""
    at_end = "atexit.register(lambda: print('torch:', 'torch' in sys.modules))"
    code = f"import atexit, sys; {at_end}; from sesurgeon.cli.app import app; {call}"
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()


def test_a_misspelt_verb_gets_the_nearest() -> None:
    result = CliRunner().invoke(app, ["ad-se", "net.pt"])
    assert result.exit_code == 2
    assert "No such command 'ad-se'. Did you mean 'add-se'?" in result.stderr
    assert "Did you mean 'finetune'?" in CliRunner().invoke(app, ["FINETUNE"]).stderr
    assert "Did you mean" not in CliRunner().invoke(app, ["xyz"]).stderr


def test_usage_errors_exit_with_2() -> None:
    assert run(app, ["no-such-verb"]).exit_code == 2
    assert run(app, ["export", "--no-such-option"]).exit_code == 2
    assert run(app, ["export", "net.pt", "--opset", "eleven"]).exit_code == 2


def test_version() -> None:
    assert run(app, ["--version"]).stdout == f"sesurgeon {sesurgeon.__version__}\n"
    versions = json.loads(run(app, ["version", "--json"]).stdout)
    assert versions["sesurgeon"] == sesurgeon.__version__
    assert versions["python"] == ".".join(str(part) for part in sys.version_info[:3])
    assert {"torch", "timm", "onnx"} <= set(versions)


def test_ctrl_c_while_it_is_loaded_is_130_without_a_word() -> None:
    code = (
        "import signal, sys; from importlib.abc import MetaPathFinder; from sesurgeon.__main__ import main;"
        "signal.signal(signal.SIGINT, signal.default_int_handler);"
        "press = lambda self, name, *_: signal.raise_signal(signal.SIGINT) if name == 'typer' else None;"
        "sys.meta_path.insert(0, type('Key', (MetaPathFinder,), {'find_spec': press})()); main()"
    )
    done = subprocess.run([sys.executable, "-c", code, "version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_what_libraries_print_as_the_process_ends_is_not_in_the_result() -> None:
    code = "import atexit; atexit.register(print, 'finished'); from sesurgeon.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "version", "--json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["sesurgeon"] == sesurgeon.__version__
    assert done.stderr == "finished\n"


def test_it_runs_as_a_module() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "sesurgeon", "--version"], capture_output=True, text=True, check=True
    )
    assert result.stdout == f"sesurgeon {sesurgeon.__version__}\n"
