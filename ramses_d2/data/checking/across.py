"""Checks across images and folders: the same image in training and validation, under one name or two."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from ramses_d2.data.checking.contents import FolderContents
from ramses_d2.data.checking.findings import Finding, Kind, finding
from ramses_d2.data.checking.images import image_file
from ramses_d2.data.checking.pixels import Facts
from ramses_d2.data.splits import split_class_names, subset_names
from ramses_d2.errors import RamsesError
from ramses_d2.files import read_json

Place = tuple[int, str]  # position of a folder among those checked, base name
_ROLES = re.compile("(train)(?:ing)?|(valid)(?:ation)?|(val)|(?<![a-z])(dev)(?![a-z])|(test)(?:ing)?", re.IGNORECASE)


@dataclass(frozen=True)
class Split:
    """A split file.

    Attributes:
        path: the file.
        class_names: its class list.
        subsets: subset -> names as written, with repeats.
        places: name as written -> the checked images it stands for; also ones that do not exist.
    """

    path: Path
    class_names: list[str]
    subsets: dict[str, list[str]]
    places: dict[str, list[Place]]

    def subsets_of(self) -> dict[Place, list[str]]:
        """The subsets that name an image."""
        found: dict[Place, list[str]] = defaultdict(list)
        for subset, names in self.subsets.items():
            for place in {place for name in set(names) for place in self.places[name]}:
                found[place].append(subset)
        return found


def locate_split(path: Path, folders: Sequence[FolderContents]) -> Split:
    """Read a split file, ours or the original's.

    Args:
        path: the file.
        folders: the folders that are checked.

    Raises:
        RamsesError: file missing or no split file.
    """
    subsets, class_names, content = subset_names(path), split_class_names(path), read_json(path)
    lists = {name: content.get("subsets", content)[name] for name in subsets}
    roots = content.get("folders", {}) if "subsets" in content else {}
    resolved = {contents.folder.resolve(): index for index, contents in enumerate(folders)}
    indices = {key: resolved.get((path.parent / root).resolve()) for key, root in roots.items()}
    places: dict[str, list[Place]] = {}
    for name in {name for names in lists.values() for name in names}:
        key, slash, base = name.partition("/")
        if "subsets" not in content:  # the original's: a base name alone, of whichever folder has it
            places[name] = [(index, name) for index, each in enumerate(folders) if name in each.images]
        elif not slash or key not in roots:
            raise RamsesError(f"{path}: image {name!r} is in none of its folders; write <folder key>/<base name>")
        else:
            places[name] = [] if indices[key] is None else [(indices[key], base)]
    return Split(path, class_names, lists, places)


def check_split(split: Split, folders: Sequence[FolderContents]) -> Iterator[Finding]:
    """Names of a split that are in two subsets or lead nowhere.

    Args:
        split: the split.
        folders: the folders that are checked.
    """
    known = [{*contents.base_names, *contents.unusable} for contents in folders]
    counts = {
        subset: Counter(place for name in names for place in split.places[name])
        for subset, names in split.subsets.items()
    }
    files = [_file(split, contents) for contents in folders]
    for (index, base), subsets in sorted(split.subsets_of().items()):
        where = {"folder": folders[index].folder, "file": files[index], "picture": base}
        if base not in known[index]:
            yield finding(Kind.SPLIT_IMAGE_MISSING, message=f"names {base}, which the folder does not have", **where)
        for one, other in combinations(subsets, 2):
            if _are_apart(one, other):
                times = [f"{subset} ({counts[subset][index, base]}x)" for subset in (one, other)]
                yield finding(Kind.IN_TWO_SUBSETS, message=f"{base} is in {times[0]} and in {times[1]}", **where)


def check_copies(
    folders: Sequence[FolderContents], facts: Sequence[Mapping[str, Facts]], splits: Sequence[Split]
) -> Iterator[Finding]:
    """Images with the same pixels, under different names or in different folders.

    Args:
        folders: the folders.
        facts: base name -> what its pixels say, of each.
        splits: the splits; a copy of an image of another subset is an error.
    """
    groups: dict[str, list[Place]] = defaultdict(list)
    for index, of_folder in enumerate(facts):
        for base, (image, _) in of_folder.items():
            if image is not None and image.error is None:
                groups[image.digest].append((index, base))
    memberships = [split.subsets_of() for split in splits]
    for places in groups.values():
        for later in range(1, len(places)):
            yield _copy_finding(places[later], places[:later], folders, memberships)


def _copy_finding(
    place: Place, earlier: Sequence[Place], folders: Sequence[FolderContents], memberships: Sequence[dict]
) -> Finding:
    """What to say of an image that has copies among the earlier ones."""
    for subsets_of in memberships:
        for other in earlier:
            for one, two in ((a, b) for a in subsets_of.get(place, ()) for b in subsets_of.get(other, ())):
                if _are_apart(one, two):
                    # The copy to name is the one that is not trained on: it is worth nothing there
                    named, like = (other, place) if _role(one)[0] == "train" else (place, other)
                    mine, its = (two, one) if named == other else (one, two)
                    message = f"in {mine}, has the same pixels as {_path(like, named, folders)} in {its}"
                    return _at(Kind.COPY_IN_TWO_SUBSETS, named, folders, message)
    return _at(Kind.DUPLICATE_IMAGE, place, folders, f"has the same pixels as {_path(earlier[0], place, folders)}")


def _at(kind: Kind, place: Place, folders: Sequence[FolderContents], message: str) -> Finding:
    contents = folders[place[0]]
    return finding(kind, contents.folder, image_file(contents, place[1]), message, image=place[1])


def _path(place: Place, seen_from: Place, folders: Sequence[FolderContents]) -> str:
    file = image_file(folders[place[0]], place[1])
    return file if place[0] == seen_from[0] else str(folders[place[0]].folder / file)


def _file(split: Split, contents: FolderContents) -> str:
    """The split file as seen from the folder."""
    inside = split.path.resolve().is_relative_to(contents.folder.resolve())
    return str(split.path.resolve().relative_to(contents.folder.resolve()) if inside else split.path.resolve())


def _role(subset: str) -> tuple[str | None, str]:
    """ "train", "valid" or "test", and the rest of a subset's name: the fold, of several."""
    match = _ROLES.search(subset)
    if match is None:
        return None, subset
    role = match[match.lastindex].lower()
    return "valid" if role in ("val", "dev") else role, subset[: match.start()] + subset[match.end() :]


def _are_apart(one: str, other: str) -> bool:
    """Whether two subsets may not share images: training and validation of one fold, and testing and everything."""
    (role, fold), (other_role, other_fold) = _role(one), _role(other)
    if None in (role, other_role) or role == other_role:
        return False
    return fold == other_fold or "test" in (role, other_role)
