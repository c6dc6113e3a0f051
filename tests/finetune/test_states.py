"""States that the disk has damaged in ways that no checksum shows."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sesurgeon.errors import OutputError, UnreadableFileError
from sesurgeon.finetune import resuming
from sesurgeon.finetune.keeping.states import RunState, newest_state, refused_in, states_in, write_state
from sesurgeon.finetune.resuming import newest_run


def state(epoch: int) -> RunState:
    """The least that is one."""
    return RunState(epoch, 0, "all", {}, None, {}, None, [], [], False, [], [], {}, {})


def test_a_state_with_a_bit_wrong_in_its_directory_is_passed_over_too(tmp_path: Path) -> None:
    whole = write_state(tmp_path, state(1))
    newest = write_state(tmp_path, state(2))
    content = newest.read_bytes()
    passed_over = 0
    for place in range(content.index(b"PK\1\2"), len(content)):  # no checksum covers where the parts lie
        for bit in (8, 16):
            newest.write_bytes(content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :])
            found = newest_state(tmp_path)
            assert found is not None
            assert found.path == (whole if found.torn else newest)
            assert found.state.epoch == (1 if found.torn else 2)
            passed_over += bool(found.torn)
    assert passed_over > 100


@pytest.mark.parametrize("pickled", [b"\x85.", b"\x80\x02]."], ids=["no-pickle", "list"])
def test_a_state_that_is_read_as_something_else_is_passed_over_too(tmp_path: Path, pickled: bytes) -> None:
    whole = write_state(tmp_path, state(1))
    newest = write_state(tmp_path, state(2))
    with zipfile.ZipFile(newest) as archive:
        parts = {part.filename: archive.read(part) for part in archive.infolist()}
    with zipfile.ZipFile(newest, "w", zipfile.ZIP_STORED) as archive:
        for name, content in parts.items():
            archive.writestr(name, pickled if name.endswith("data.pkl") else content)
    found = newest_state(tmp_path)
    assert found is not None
    assert (found.path, found.torn) == (whole, (newest,))


def test_a_state_that_cannot_be_written_leaves_nothing_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = write_state(tmp_path, state(1))

    def fails(content: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fails)
    with pytest.raises(OutputError, match="No space left"):
        write_state(tmp_path, state(2))
    assert list(tmp_path.iterdir()) == [whole]


def test_a_state_that_lacks_something_is_passed_over_too(tmp_path: Path) -> None:
    whole = write_state(tmp_path, state(1))
    newest = write_state(tmp_path, state(2))
    torch.save({name: value for name, value in state(2).to_dict().items() if name != "recorder"}, newest)
    found = newest_state(tmp_path)
    assert found is not None
    assert (found.path, found.torn) == (whole, (newest,))
    with pytest.raises(UnreadableFileError, match="lacks model, recorder"):
        RunState.from_dict({name: 0 for name in state(1).to_dict() if name not in ("model", "recorder")})


def test_a_torn_state_that_is_set_aside_does_not_drive_out_a_whole_one(tmp_path: Path) -> None:
    whole = write_state(tmp_path, state(1))
    torn = write_state(tmp_path, state(2))
    torn.write_bytes(b"half")
    found = newest_state(tmp_path)
    assert found is not None
    [aside] = found.set_torn_aside()
    newest = write_state(tmp_path, state(3))
    assert states_in(tmp_path) == [newest, whole]
    assert aside.read_bytes() == b"half"


def test_states_are_ordered_by_their_numbers(tmp_path: Path) -> None:
    for epoch in (99_998, 99_999, 100_000):
        write_state(tmp_path, state(epoch))
    assert [path.name[6:12] for path in states_in(tmp_path)] == ["100000", "99999-"]


def test_what_the_safe_reader_refuses_is_named(tmp_path: Path) -> None:
    assert refused_in(write_state(tmp_path, state(1))) is None
    refused = refused_in(write_state(tmp_path, replace(state(2), model={"_extra_state": tmp_path})))
    assert refused is not None
    assert "Path" in refused


def test_a_state_that_is_gone_meanwhile_does_not_hide_the_newest_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("older", "newer"):
        (tmp_path / name).mkdir()
        write_state(tmp_path / name / "states", state(1))
    gone = tmp_path / "older" / "states" / "epoch-00000-update-00000001.pt"
    monkeypatch.setattr(resuming, "states_in", lambda folder: [*states_in(folder), gone])
    assert newest_run(tmp_path) == tmp_path / "newer"
