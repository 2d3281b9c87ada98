"""The files of a report, written all or none: the page, its figures as JSON, and every table as CSV."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ramses_d2.analysis.report.build import Report
from ramses_d2.analysis.report.gallery import make_gallery
from ramses_d2.analysis.report.html import report_page
from ramses_d2.analysis.report.tables import TABLE_NAMES, report_tables
from ramses_d2.errors import RamsesError


def write_report(report: Report, output: str | Path, *, force: bool = False) -> list[Path]:
    """Write NAME.html, NAME.json and NAME_TABLE.csv side by side.

    Args:
        report: of :func:`~.report.build_report`.
        output: the HTML file.
        force: replace the files of an earlier report of this name; its tables that this one lacks are removed.

    Returns:
        what was written, the page first.

    Raises:
        RamsesError: ``output`` is no .html file, its folder cannot be written to, or one of the files exists and
            ``force`` is not given.
    """
    page = check_output(output, force=force)
    tables = report_tables(report)
    names = {name: f"{page.stem}_{name}.csv" for name in tables}
    options = report.options
    gallery = make_gallery(report.run, options.gallery, options.scale_classes) if options.gallery else []
    contents = {page: report_page(report, tables, gallery, names)}
    figures = json.dumps(report.to_json(), indent=1, allow_nan=False, ensure_ascii=False)
    contents[page.with_suffix(".json")] = figures + "\n"
    contents |= {page.with_name(names[name]): table.to_csv() for name, table in tables.items()}
    write_files(contents)
    for path in set(_earlier_files(page)) - set(contents):
        path.unlink()
    return list(contents)


def check_output(output: str | Path, *, force: bool) -> Path:
    """The path of the page, if a report may be written there.

    Raises:
        RamsesError: see :func:`write_report`.
    """
    page = Path(output)
    if page.suffix.lower() != ".html":
        raise RamsesError(f"--output {output}: give the name of an .html file; JSON and CSV files go beside it")
    there = _earlier_files(page)
    figures = page.with_suffix(".json")
    if figures in there and not _is_report(figures):
        raise RamsesError(
            f"{figures} is no report's: choose another --output than {page.name}, it would replace that file"
        )
    if there and not force:
        raise RamsesError(f"{there[0]} exists: choose another --output, or replace it with --force")
    return page


def write_files(contents: dict[Path, str]) -> None:
    """Write text files under temporary names and rename them when all are there.

    Raises:
        RamsesError: a file cannot be written; nothing is replaced then, unless the renaming itself fails.
    """
    partial = {path: path.with_name(f".{path.name}.{os.getpid()}") for path in contents}
    try:
        for path, text in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial[path].write_text(text, encoding="utf-8")
        for path, temporary in partial.items():
            temporary.replace(path)
    except OSError as error:
        raise RamsesError(f"{error.filename}: cannot be written ({error.strerror})") from error
    finally:
        for temporary in partial.values():
            temporary.unlink(missing_ok=True)


def _is_report(path: Path) -> bool:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("format") == "ramses-report"


def _earlier_files(page: Path) -> list[Path]:
    """What a report of this name may have left."""
    names = [page, page.with_suffix(".json"), *(page.with_name(f"{page.stem}_{name}.csv") for name in TABLE_NAMES)]
    return [path for path in names if path.exists()]
