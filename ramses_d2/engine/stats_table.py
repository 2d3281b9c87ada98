"""A table of tab-separated values that grows by a row at a time and outlives kills, resumes and new columns."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path

from ..atomic_file import atomic_file

KEY = "iteration"


class StatsTable:
    """Rows by increasing number of steps done, in memory and in a file.

    A row is appended to the file; only where earlier rows change, or a column is new, is the file written anew, whole
    or not at all.

    Args:
        path: of the file; an old one is kept or forgotten by :meth:`start`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.columns: list[str] = [KEY]
        self.rows: list[dict[str, str]] = []

    def start(self, steps: int) -> None:
        """Keep the rows of an earlier run up to these steps; what came after, and a line that a kill cut off, goes.

        Args:
            steps: done before this run; 0 = a new training, which forgets all.
        """
        self.columns, self.rows = [KEY], []
        if not steps or not self._path.is_file():
            self._path.unlink(missing_ok=True)
            return
        text = self._path.read_text(encoding="utf-8")
        whole, _, _ = text.rpartition("\n")
        reader = csv.DictReader(io.StringIO(whole), dialect="excel-tab")
        columns = list(reader.fieldnames or [])
        if KEY not in columns:  # no table of ours
            self._path.unlink()
            return
        self.columns = columns
        self.rows = [row for row in reader if _is_whole(row) and int(row[KEY]) <= steps]
        self._rewrite()

    def append(self, row: Mapping[str, float]) -> None:
        """Add a row; one of the same steps, or later ones, are replaced by it.

        Args:
            row: column -> number, KEY among them; columns may differ from row to row.
        """
        cells = {column: _text(value) for column, value in row.items()}
        kept = [old for old in self.rows if int(old[KEY]) < int(cells[KEY])]
        new_columns = [column for column in cells if column not in self.columns]
        changed = len(kept) < len(self.rows) or new_columns
        self.rows, self.columns = [*kept, cells], self.columns + new_columns
        if changed or not self._path.is_file():
            self._rewrite()
        else:
            with self._path.open("a", encoding="utf-8", newline="") as stream:
                self._writer(stream).writerow(cells)

    def series(self, column: str) -> tuple[list[int], list[float]]:
        """Steps and values of a column where it has any, unknown ones left out."""
        known = [(int(row[KEY]), float(row[column])) for row in self.rows if row.get(column)]
        known = [(steps, value) for steps, value in known if math.isfinite(value)]
        return [steps for steps, _ in known], [value for _, value in known]

    def _rewrite(self) -> None:
        with atomic_file(self._path, newline="") as stream:
            writer = self._writer(stream)
            writer.writeheader()
            writer.writerows(self.rows)

    def _writer(self, stream: io.TextIOBase) -> csv.DictWriter[str]:
        return csv.DictWriter(stream, self.columns, restval="", dialect="excel-tab", lineterminator="\n")


def _is_whole(row: Mapping[str | None, str | None]) -> bool:
    """Neither too few cells nor too many, and a number of steps."""
    return None not in row and None not in row.values() and str(row[KEY]).isdigit()


def _text(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"
