"""The command as a whole."""

from __future__ import annotations

import json
import subprocess
import sys

from typer.testing import CliRunner

import sesurgeon
from sesurgeon.cli.app import app

run = CliRunner().invoke


def test_help_lists_the_verbs() -> None:
    result = run(app, ["--help"])
    assert result.exit_code == 0
    assert "export" in result.stdout
    assert "version" in result.stdout


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


def test_it_runs_as_a_module() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "sesurgeon", "--version"], capture_output=True, text=True, check=True
    )
    assert result.stdout == f"sesurgeon {sesurgeon.__version__}\n"
