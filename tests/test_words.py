"""Words for people."""

from __future__ import annotations

import pytest

from sesurgeon.words import counted, in_per_cent, some


@pytest.mark.parametrize(("number", "said"), [(0, "0 blocks"), (1, "1 block"), (2, "2 blocks"), (1000, "1,000 blocks")])
def test_one_is_not_several(number: int, said: str) -> None:
    assert counted(number, "block") == said


def test_a_share_is_said_in_per_cent() -> None:
    assert [in_per_cent(0.125), in_per_cent(1.0, ".0f"), in_per_cent(-0.0123, "+.1f")] == ["12.50 %", "100 %", "-1.2 %"]


def test_of_many_names_some_are_said_and_the_others_counted() -> None:
    names = [str(number) for number in range(1234)]
    assert some(names, 2) == "0, 1 and 1,232 more"
    assert some(names[:3], 2) == "0, 1 and 1 more"
    assert [some(names[:2], 2), some(names[:1], 2), some([], 2)] == ["0, 1", "0", ""]
