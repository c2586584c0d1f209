"""What is written can be read, in either scheme (WCAG 2.2: 4.5 to 1 for text, 3 to 1 for what is drawn)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import peerload

STYLE = (Path(peerload.__file__).parent / "server" / "page" / "files" / "style.css").read_text()
PAIRS = {
    name: (light, dark)
    for name, light, dark in re.findall(r"--([a-z]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\)", STYLE)
}
TEXT = ("ink", "muted", "ready", "initializing", "stale", "move", "bad")
GROUNDS = ("surface", "paper", "hover")


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("text", TEXT)
@pytest.mark.parametrize("ground", GROUNDS)
def test_text_can_be_read(text: str, ground: str, scheme: int) -> None:
    assert contrast(PAIRS[text][scheme], PAIRS[ground][scheme]) >= 4.5


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_the_focus_can_be_seen(scheme: int) -> None:
    assert contrast(PAIRS["focus"][scheme], PAIRS["surface"][scheme]) >= 3
