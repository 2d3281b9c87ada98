"""Check data sets before an hour of training is spent on them, and mend what can be mended.

:func:`check_folders` decodes every image once (:mod:`.pixels`, :mod:`.components`) and compares the files of every
image (:mod:`.images`), rows and pixels (:mod:`.rows`, :mod:`.values`) and the images with each other
(:mod:`.across`). :func:`repair_folder` writes a mended copy.
"""

from ramses_d2.data.checking.check import CheckedFolder, CheckReport, check_folders
from ramses_d2.data.checking.findings import Finding, Kind
from ramses_d2.data.checking.repair import check_output, repair_folder
from ramses_d2.data.checking.repair_images import Change
from ramses_d2.data.checking.report import kinds_table, refuse_to_overwrite, report_json, report_text, write_report

__all__ = [
    "Change",
    "CheckReport",
    "CheckedFolder",
    "Finding",
    "Kind",
    "check_folders",
    "check_output",
    "kinds_table",
    "refuse_to_overwrite",
    "repair_folder",
    "report_json",
    "report_text",
    "write_report",
]
