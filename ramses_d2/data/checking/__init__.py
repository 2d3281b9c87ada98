"""Check data sets before hours of training are spent on them, and repair what can be repaired."""

from ramses_d2.data.checking.check import KINDS, CheckReport, check_folders
from ramses_d2.data.checking.contents import Finding, Folder
from ramses_d2.data.checking.repair import Change, repair_folder

__all__ = ["KINDS", "Change", "CheckReport", "Finding", "Folder", "check_folders", "repair_folder"]
