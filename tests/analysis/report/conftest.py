"""The report of the hand-made run, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from ramses_d2.analysis.report.build import Report
from tests.analysis.report.hand_made import make_report


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    """A folder with a run, its images, a weighed batch and the report of it; and the report's values."""
    folder = tmp_path_factory.mktemp("report")
    return folder, make_report(folder)
