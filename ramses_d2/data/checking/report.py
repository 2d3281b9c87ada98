"""The findings as text and as JSON."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from ramses_d2.data.checking.check import CheckReport
from ramses_d2.data.checking.findings import Finding, Kind
from ramses_d2.errors import RamsesError
from ramses_d2.files import atomic_file

FORMAT, VERSION = "ramses-check", 1


def kinds_table() -> str:
    """All kinds with their severity and explanation."""
    rows = [(kind.value, kind.severity, "yes" if kind.repairable else "", kind.explanation) for kind in Kind]
    return tabulate(rows, headers=("kind", "severity", "--fix", "meaning"))


def report_text(report: CheckReport, show: int = 10) -> str:
    """What was checked, how much of each kind was found, and the findings.

    Args:
        report: the report.
        show: findings listed per kind at most.
    """
    lines = [
        f"{each.contents.folder}: {len(each.contents.images)} images, {len(each.contents.rows)} rows, "
        f"boxes: {each.row_check.convention}"
        for each in report.folders
    ]
    if not report.findings:
        return "\n".join([*lines, "nothing to complain about"])
    return "\n".join([*lines, "", _counts_table(report.findings), "", *_listing(report.findings, show)])


def _counts_table(findings: Sequence[Finding]) -> str:
    counts = Counter((each.severity, each.kind) for each in findings)
    images = defaultdict(set)
    for each in findings:
        if each.image is not None:
            images[each.severity, each.kind].add((each.folder, each.image))
    rows = [
        (severity, kind.value, count, len(images[severity, kind]) or "", kind.explanation)
        for (severity, kind), count in sorted(counts.items(), key=lambda item: item[0][0])
    ]
    return tabulate(rows, headers=("", "kind", "count", "pictures", "meaning"))


def _listing(findings: Sequence[Finding], show: int) -> list[str]:
    groups: dict[tuple[str, Kind], list[Finding]] = defaultdict(list)
    for each in findings:
        groups[each.severity, each.kind].append(each)
    lines = []
    for (severity, kind), group in sorted(groups.items(), key=lambda item: item[0][0]):
        lines.append(f"{severity}: {kind.value}")
        lines += [f"  {each}" for each in group[:show]]
        if len(group) > show:
            lines.append(f"  ... and {len(group) - show} more")
    return lines


def report_json(report: CheckReport) -> dict[str, Any]:
    """The whole report as JSON values."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "errors": report.errors,
        "warnings": len(report.findings) - report.errors,
        "folders": [
            {
                "folder": str(each.contents.folder),
                "pictures": len(each.contents.images),
                "rows": len(each.contents.rows),
                "boxes": each.row_check.convention,
            }
            for each in report.folders
        ],
        "findings": [each.to_json() for each in report.findings],
    }


def write_report(report: CheckReport, path: str | Path) -> None:
    """Write the report as JSON; a report that is there is replaced."""
    with atomic_file(Path(path)) as stream:
        stream.write(json.dumps(report_json(report), indent=1) + "\n")


def refuse_to_overwrite(path: str | Path, force: bool) -> None:
    """Stop before the work where the report could not be written after it.

    Raises:
        RamsesError: the file exists and is not to be replaced, or is no report; its folder does not exist.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise RamsesError(f"{path.parent}: no such folder to write {path.name} to")
    if not path.exists():
        return
    if not force:
        raise RamsesError(f"{path} already exists: choose another name or replace it with --force")
    try:
        is_report = json.loads(path.read_text(encoding="utf-8"))["format"] == FORMAT
    except (OSError, ValueError, LookupError, TypeError):
        is_report = False
    if not is_report:
        raise RamsesError(f"{path} is no report of a check: refusing to replace it")
