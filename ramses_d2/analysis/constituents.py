"""From class names to the constituents of EN 933-11 (hand sorting of coarse recycled aggregate)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType

import pandas as pd
import yaml

from ramses_d2.errors import RamsesError

# EN 933-11: what the laboratory picks apart by hand, in the order in which results are listed
CONSTITUENTS = {
    "Rc": "concrete, mortar, concrete masonry",
    "Ru": "natural stone, unbound and hydraulically bound aggregate",
    "Rb": "bricks, tiles, calcium silicate masonry, non-floating aerated concrete",
    "Ra": "bituminous materials",
    "Rg": "glass",
    "X": "other: clay and soil, metals, non-floating wood, plastic, rubber, gypsum plaster",
}
# Floating material is a volume per kg (cm3/kg), measured in water: an image cannot show it
FLOATING, FLOATING_DESCRIPTION, FLOATING_REMARK = "FL", "floating material (cm3/kg)", "not visible in pictures"
# What a map says of a coin or a ruler: an object of known size, no part of the sample
SCALE = "scale"

_RAMSES_CLASSES = {
    "Rc": ("Rc", "Rcu01"),  # Rcu01 is lime mortar; the "Rcu" of product standards is the sum of Rc and Ru
    "Ru": ("Ru", "Ru01", "Ru02", "Ru03", "Ru04", "Ru05", "Ru06"),
    "Rb": ("Rb", "Rb01", "Rb02"),
    "Ra": ("Ra",),
    "Rg": ("Rg",),
    "X": ("X", "X01", "X02", "X03", "X04", "UNKNOWN", "Pl", "SHELLS"),
    SCALE: ("Coin",),
}
_HEADING = """\
# The constituent of EN 933-11 that each class counts as: Rc Ru Rb Ra Rg X, or "scale" for coins and other
# objects of known size, which are no part of the sample. Classes that are not listed keep the built-in entry.
"""


@dataclass(frozen=True)
class ConstituentMap:
    """Which constituent each class counts as.

    Attributes:
        classes: class name -> key of ``CONSTITUENTS``, or ``SCALE``.
        source: where it comes from, for reports and messages: "built-in" or the name of a YAML file.
        own: the classes that the YAML file names.
    """

    classes: Mapping[str, str]
    source: str = "built-in"
    own: tuple[str, ...] = ()

    def assign(self, names: pd.Series, foreign: str = "error") -> pd.Series:
        """The constituent of each particle.

        Args:
            names: (n,) class names.
            foreign: what a class outside the map counts as: a key of ``CONSTITUENTS``, or "error".

        Returns:
            (n,) keys of ``CONSTITUENTS`` or ``SCALE``, with the index of ``names``.

        Raises:
            RamsesError: a class is not in the map and ``foreign`` is "error".
        """
        if foreign != "error" and foreign not in CONSTITUENTS:
            raise RamsesError(f"classes outside the map as {foreign!r}: give one of {' '.join(CONSTITUENTS)}, or error")
        unlisted = self.unlisted(names)
        if unlisted and foreign == "error":
            raise RamsesError(
                f"no constituent is known for {_class_list(unlisted)} (map: {self.source}): add"
                f' a line such as "{unlisted[0]}: X" to the YAML file of the constituent map'
            )
        return names.astype(str).map(lambda name: self.classes.get(name, foreign)).astype(object)

    def unlisted(self, names: pd.Series) -> list[str]:
        """Class names that the map does not hold, sorted."""
        return sorted(set(names.astype(str)) - set(self.classes))

    def to_yaml(self) -> str:
        """The map as the text of a YAML file to edit; :func:`load_map` reads it back."""
        # Quotes, because YAML would read a bare No or 12 as something else than a name
        lines = [f'{_quoted(name)}: "{constituent}"' for name, constituent in self.classes.items()]
        return _HEADING + "\n".join(lines) + "\n"


DEFAULT_MAP = ConstituentMap(
    MappingProxyType({name: constituent for constituent, names in _RAMSES_CLASSES.items() for name in names})
)


def load_map(path: str | Path, base: ConstituentMap = DEFAULT_MAP) -> ConstituentMap:
    """Read a YAML file with one ``class: constituent`` line per class.

    Args:
        path: the file. A constituent is a key of ``CONSTITUENTS`` or "scale".
        base: the entries of classes that the file does not list.

    Raises:
        RamsesError: the file cannot be read, a line is no ``class: constituent`` pair, a class comes twice, or a
            constituent does not exist; the message names the line.
    """
    path = Path(path)
    try:
        # The nodes, not the values: every name stays text, and every line has its number
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RamsesError(f"{path}: not a readable constituent map: {' '.join(str(error).split())}") from error
    if not isinstance(root, yaml.MappingNode):
        raise RamsesError(f'{path}: not a constituent map: write one line such as "Rb01: Rb" for each class')
    own: dict[str, str] = {}
    for key, value in root.value:
        where = f"{path} line {key.start_mark.line + 1}"
        if not (isinstance(key, yaml.ScalarNode) and isinstance(value, yaml.ScalarNode)):
            raise RamsesError(f'{where}: not one class and one constituent: write a line such as "Rb01: Rb"')
        if key.value in own:
            raise RamsesError(f"{where}: class {key.value} comes twice: keep one of the lines")
        own[key.value] = _checked(value.value, where)
    return ConstituentMap(MappingProxyType({**base.classes, **own}), path.name, tuple(own))


def _checked(constituent: str, where: str) -> str:
    """``constituent`` if a map may name it."""
    if constituent in CONSTITUENTS or constituent == SCALE:
        return constituent
    known = [*CONSTITUENTS, SCALE]
    if constituent == FLOATING:
        raise RamsesError(f"{where}: FL is a volume that floats in water, which no image shows: use X")
    close = get_close_matches(constituent, known, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise RamsesError(f"{where}: no constituent {constituent!r}: {hint}give one of {' '.join(known)}")


def _class_list(names: list[str]) -> str:
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"class {shown}" if len(names) == 1 else f"classes {shown}"


def _quoted(name: str) -> str:
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
