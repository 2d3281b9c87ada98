"""How a report writes numbers and sentences."""

from __future__ import annotations

import re

# Between a number and its unit, where lines must not break
SPACE = "\u00a0"


def percent_text(fraction: float, decimals: int | None = None, *, sign: bool = False) -> str:
    """A fraction in %, with as many decimals as it needs where none are given; never broken over lines."""
    places = "g" if decimals is None else f".{decimals}f"
    return f"{100 * fraction:{'+' if sign else ''}{places}}{SPACE}%".replace("-", "\u2212")


def many(number: int, name: str, several: str = "") -> str:
    """``number`` things: "1 picture", "2 pictures"."""
    return f"1 {name}" if number == 1 else f"{number} {several or name + 's'}"


def sentence(words: str) -> str:
    """Words with a capital, a full stop, and a space before every %."""
    words = re.sub(r"(?<=\d) ?%", f"{SPACE}%", words)
    return words[0].upper() + words[1:] + ("" if words.endswith(".") else ".")
