"""The files of a report: the page, which asks nothing of any network, its values as JSON, and every table as CSV."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from ramses_d2 import __version__
from ramses_d2.analysis.intervals import effective_number
from ramses_d2.analysis.report.build import Report, many, percent_text, sentence
from ramses_d2.analysis.report.charts import report_charts
from ramses_d2.analysis.report.gallery import make_gallery
from ramses_d2.analysis.report.tables import TABLE_NAMES, cell_text, page_table, report_tables
from ramses_d2.draw import plain_number
from ramses_d2.errors import RamsesError, file_errors_are_one_line
from ramses_d2.files import atomic_path

_MARKER = '"format": "ramses-report"'
_LONGEST_ON_PAGE = 20  # rows; longer tables are for the CSV file only
_PAGES = Environment(
    loader=PackageLoader(__package__), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_FILTERS = (cell_text, effective_number, many, page_table, percent_text, plain_number, sentence)
_PAGES.filters |= {made.__name__: made for made in _FILTERS} | {"shell": shlex.join, "median": np.median}


def write_report(report: Report, output: str | Path, *, force: bool = False) -> list[Path]:
    """Write NAME.html, NAME.json and NAME_TABLE.csv, all or none; returns them in this order.

    ``force`` replaces an earlier report of this name; its tables that this one lacks are removed.
    """
    page = check_page(output, force=force)
    values = json.dumps(report.to_json(), indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    contents = {page: "", page.with_suffix(".json"): values}
    tables, options = report_tables(report), report.options
    for name, table in tables.items():
        path = page.with_name(f"{page.stem}_{name}.csv")
        contents[path] = table.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    resolutions = np.array([image.resolution for image in report.run.images], float)
    text = _PAGES.get_template("report.html.j2").render(
        report=report,
        tables=tables,
        charts=report_charts(report),
        gallery=make_gallery(report.run, options.gallery, options.scale_classes) if options.gallery else [],
        px=resolutions[np.isfinite(resolutions)],
        stem=page.stem,
        longest=_LONGEST_ON_PAGE,
        version=__version__,
    )
    contents[page] = text.strip() + "\n"
    write_files(contents)
    for path in set(_earlier_files(page)) - set(contents):
        path.unlink()
    return list(contents)


def check_page(output: str | Path, *, force: bool) -> Path:
    """The path of the page, if a report may be written there; only files of a report are ever replaced."""
    page = Path(output)
    if page.suffix.lower() != ".html":
        raise RamsesError(f"--output {output}: give the name of an .html file; JSON and CSV files go beside it")
    there, values = _earlier_files(page), page.with_suffix(".json")
    if values.is_file() and _MARKER not in values.read_text(encoding="utf-8", errors="replace"):
        raise RamsesError(
            f"{values} is not of a report, and would be replaced: choose another --output than {page.name}"
        )
    if there and not force:
        raise RamsesError(f"{there[0]} exists: choose another --output, or replace it with --force")
    return page


def _earlier_files(page: Path) -> list[Path]:
    """What a report of this name may have left."""
    names = [page, page.with_suffix(".json"), *(page.with_name(f"{page.stem}_{name}.csv") for name in TABLE_NAMES)]
    return [path for path in names if path.exists()]


def write_files(contents: Mapping[Path, str]) -> None:
    """Write text files that take their places when all are there."""
    with file_errors_are_one_line(), ExitStack() as stack:
        for path, text in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(atomic_path(path)).write_text(text, encoding="utf-8")
