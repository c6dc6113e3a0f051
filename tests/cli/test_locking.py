"""Two runs in one folder: the second would delete what the first is writing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import sesurgeon
from sesurgeon.cli.app import app
from sesurgeon.errors import UsageError
from sesurgeon.finetune.keeping.lock import check_unlocked, locked

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(sesurgeon.__file__).parents[1]), "OMP_NUM_THREADS": "1"}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such locks")
def test_a_run_that_is_going_on_is_left_alone_and_one_that_was_killed_is_not(workplace: Path) -> None:
    data = ("net.se.pt", "--data", "data", "-j", "1", "--device", "cpu", "--log-with", "none", "--name", "long")
    command = [sys.executable, "-m", "sesurgeon", "finetune", *data, "--epochs", "100000"]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as run:
        assert run.stderr is not None
        next(line for line in run.stderr if line.startswith("epoch      2/100000"))
        for other in (("--resume",), ("--resume", "--name", "long", "--epochs", "3"), (*data, "--force")):
            refused = CliRunner().invoke(app, ["finetune", *other])
            assert refused.exit_code == 2, refused.output
            assert "Another run is in progress in runs/finetune/long." in refused.stderr
        several = [*command[:4], "--resume", "--name", "long", "--num-processes", "2"]
        refused_all = subprocess.run(several, capture_output=True, text=True, env=ENVIRONMENT, timeout=120, check=False)
        assert refused_all.returncode == 2, refused_all.stderr
        assert "was killed" not in refused_all.stderr
        assert run.poll() is None
        run.send_signal(signal.SIGKILL)
        run.wait()
        went_on = CliRunner().invoke(app, ["finetune", *data, "--epochs", "1", "--force"])  # its readers may live on
        assert went_on.exit_code == 0, went_on.output
    assert (workplace / "runs" / "finetune" / "long" / ".lock").read_bytes() == b""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such locks")
def test_a_folder_that_another_run_claims_at_the_last_moment_is_left_alone(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\nfrom sesurgeon.finetune.keeping.lock import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('claimed', flush=True)\n    sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    check_unlocked(tmp_path)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "claimed\n"
        with pytest.raises(UsageError, match="Another run is in progress"), locked(tmp_path):
            pass
        run.communicate()
    with locked(tmp_path):
        pass
