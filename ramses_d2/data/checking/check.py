"""Check data sets: one pass over the pixels, then everything that can be said about files, rows and splits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ramses_d2.data.checking.across import Split, check_copies, check_split, locate_split
from ramses_d2.data.checking.contents import FolderContents, read_contents
from ramses_d2.data.checking.findings import ERROR, Finding, Kind, finding
from ramses_d2.data.checking.images import check_images
from ramses_d2.data.checking.pixels import Facts, measure_images
from ramses_d2.data.checking.rows import RowCheck, check_rows
from ramses_d2.data.checking.values import check_classes, check_masses, check_resolutions
from ramses_d2.errors import RamsesError


@dataclass(frozen=True)
class CheckedFolder:
    """A folder and what its pixels say; :func:`ramses_d2.data.checking.repair.repair_folder` works from it.

    Attributes:
        contents: files and rows.
        facts: base name -> what its pixels say.
        row_check: rows beside their pixels.
    """

    contents: FolderContents
    facts: dict[str, Facts]
    row_check: RowCheck


@dataclass(frozen=True)
class CheckReport:
    """Everything that was found.

    Attributes:
        findings: by kind, folder, file and row.
        folders: the folders checked.
    """

    findings: list[Finding]
    folders: list[CheckedFolder]

    @property
    def errors(self) -> int:
        """Number of errors."""
        return sum(each.severity == ERROR for each in self.findings)


def check_folders(
    folders: Iterable[str | Path],
    *,
    split: str | Path | None = None,
    class_names: Sequence[str] | None = None,
    workers: int | None = None,
    progress: bool = False,
) -> CheckReport:
    """Check RAMSES folders; nothing is changed.

    Args:
        folders: the data sets.
        split: a split file of these folders; default: the split.json in each.
        class_names: class list; default: the classes.json in each.
        workers: images decoded at once; default: one per core.
        progress: show a progress bar on a terminal.

    Returns:
        the findings; none for a good data set.

    Raises:
        RamsesError: a folder or ``split`` is missing, or no such thing.
    """
    unique = {Path(folder).resolve(): Path(folder) for folder in folders}
    contents = [read_contents(folder, class_names) for folder in unique.values()]
    findings = [each for one in contents for each in one.findings]
    if split is not None:
        splits = [locate_split(Path(split), contents)]
    else:
        splits, unreadable = _own_splits(contents)
        findings += unreadable
    files = {
        (index, base): (one.images.get(base), one.labels.get(base))
        for index, one in enumerate(contents)
        for base in one.base_names
    }
    measured = measure_images(files, workers, progress)
    facts = [{base: measured[index, base] for base in one.base_names} for index, one in enumerate(contents)]

    checked = []
    for index, (one, of_folder) in enumerate(zip(contents, facts, strict=True)):
        row_check = check_rows(one, of_folder)
        findings += [*check_images(one, of_folder), *row_check.findings, *_check_lists(index, one, splits)]
        about_resolutions, untrusted = check_resolutions(one, of_folder)
        findings += [*about_resolutions, *check_masses(one, row_check.rows, untrusted)]
        checked.append(CheckedFolder(one, of_folder, row_check))
    for each in splits:
        findings += check_split(each, contents)
    findings += check_copies(contents, facts, splits)
    return CheckReport(_sorted(_stricter_in_splits(findings, contents, splits)), checked)


def _own_splits(contents: Sequence[FolderContents]) -> tuple[list[Split], list[Finding]]:
    """The split.json of every folder that has one."""
    splits, findings = [], []
    for one in contents:
        path = one.folder / "split.json"
        if path.is_file():
            try:
                splits.append(locate_split(path, contents))
            except RamsesError as error:
                message = str(error).removeprefix(f"{path}: ")
                findings.append(finding(Kind.JSON_UNREADABLE, one.folder, path.name, message))
    return splits, findings


def _check_lists(index: int, contents: FolderContents, splits: Sequence[Split]) -> Iterable[Finding]:
    """Rows whose class is not in the folder's class list, or in that of a split which names their image."""
    by_row: dict[int | None, Finding] = {}
    for split in splits:
        named = [base for folder, base in split.subsets_of() if folder == index]
        rows = contents.rows[contents.rows["baseimg"].isin(named)]
        source = f"the class list of {split.path.name}"
        by_row |= {each.row: each for each in check_classes(contents, rows, split.class_names, source)}
    if contents.class_names is not None:
        own = check_classes(contents, contents.rows, contents.class_names, "the class list")
        by_row |= {each.row: each for each in own}
    return by_row.values()


def _stricter_in_splits(
    findings: Iterable[Finding], contents: Sequence[FolderContents], splits: Sequence[Split]
) -> list[Finding]:
    """An image that is not annotated is skipped in a folder, but an error where a split asks for it."""
    wanted = {(str(contents[index].folder), base) for split in splits for index, base in split.subsets_of()}
    return [
        replace(each, severity=ERROR)
        if each.kind is Kind.NOT_ANNOTATED and (each.folder, each.image) in wanted
        else each
        for each in findings
    ]


def _sorted(findings: Iterable[Finding]) -> list[Finding]:
    order = {kind: index for index, kind in enumerate(Kind)}
    return sorted(findings, key=lambda each: (order[each.kind], each.folder, each.file, each.row or 0, each.label or 0))
