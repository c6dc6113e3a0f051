"""Names of classes in pictures: any text, in the fonts that are installed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sesurgeon.words import spaces_shown

_OURS = "DejaVu Sans"  # comes with matplotlib; it lacks the scripts of East Asia
_WIDE = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans SC",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "Droid Sans Fallback",
    "Microsoft YaHei",
    "SimHei",
    "PingFang SC",
    "Hiragino Sans GB",
    "Arial Unicode MS",
)
_LONGEST = 24


@dataclass(frozen=True)
class Lettering:
    """How the names of classes are written.

    Attributes:
        names: by output index, shortened, without those that no font here can write; ``lettering[7]`` is ``#7`` then.
        style: keyword arguments for matplotlib's text functions.
    """

    names: Mapping[int, str]
    style: Mapping[str, Any]

    def __getitem__(self, index: int) -> str:
        return self.names.get(index, f"#{index}")


def lettering_for(classes: Mapping[int, str]) -> Lettering:
    """Choose fonts for the names of ``classes``: a missing glyph would be drawn as a box, with a warning.

    Text between dollar signs is not read as a formula.
    """
    from matplotlib import font_manager

    there = {font.name for font in font_manager.fontManager.ttflist}
    families = [name for name in (_OURS, *_WIDE) if name in there]
    # A family has several faces, and not all have the same glyphs: what counts is the one that is drawn with.
    faces = [font_manager.findfont(font_manager.FontProperties(family=[name])) for name in families]
    glyphs = {code for face in faces for code in font_manager.get_font(face).get_charmap()}
    shown = {index: _shortened(spaces_shown(name)) for index, name in classes.items()}
    names = {index: name for index, name in shown.items() if all(ord(sign) in glyphs for sign in name)}
    return Lettering(names, {"parse_math": False, "fontfamily": families})


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
