"""States that the disk has damaged in ways that no checksum shows."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from sesurgeon.finetune import resuming
from sesurgeon.finetune.keeping.states import newest_state, states_in, write_state
from sesurgeon.finetune.resuming import newest_run


def test_a_state_with_a_bit_wrong_in_its_directory_is_passed_over_too(tmp_path: Path) -> None:
    whole = write_state(tmp_path, 1, 0, {"epoch": 1})
    newest = write_state(tmp_path, 2, 0, {"epoch": 2})
    content = newest.read_bytes()
    passed_over = 0
    for place in range(content.index(b"PK\1\2"), len(content)):  # no checksum covers where the parts lie
        for bit in (8, 16):
            newest.write_bytes(content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :])
            found = newest_state(tmp_path)
            assert found is not None
            assert found.path == (whole if found.torn else newest)
            assert found.content["epoch"] == (1 if found.torn else 2)
            passed_over += bool(found.torn)
    assert passed_over > 100


@pytest.mark.parametrize("pickled", [b"\x85.", b"\x80\x02]."], ids=["no-pickle", "list"])
def test_a_state_that_is_read_as_something_else_is_passed_over_too(tmp_path: Path, pickled: bytes) -> None:
    whole = write_state(tmp_path, 1, 0, {"epoch": 1})
    newest = write_state(tmp_path, 2, 0, {"epoch": 2})
    with zipfile.ZipFile(newest) as archive:
        parts = {part.filename: archive.read(part) for part in archive.infolist()}
    with zipfile.ZipFile(newest, "w", zipfile.ZIP_STORED) as archive:
        for name, content in parts.items():
            archive.writestr(name, pickled if name.endswith("data.pkl") else content)
    found = newest_state(tmp_path)
    assert found is not None
    assert (found.path, found.torn) == (whole, (newest,))


def test_a_state_that_is_gone_meanwhile_does_not_hide_the_newest_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("older", "newer"):
        (tmp_path / name).mkdir()
        write_state(tmp_path / name / "states", 1, 0, {"epoch": 1})
    gone = tmp_path / "older" / "states" / "epoch-00000-update-00000001.pt"
    monkeypatch.setattr(resuming, "states_in", lambda folder: [*states_in(folder), gone])
    assert newest_run(tmp_path) == tmp_path / "newer"
