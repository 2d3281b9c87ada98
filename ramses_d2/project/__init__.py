"""A start for your own data: look at it, choose settings that fit, write a config and a script."""

from .files import write_project
from .plan import TASKS, Plan, choose_plan
from .sources import ProjectData, find_data
from .survey import Survey, survey_data

__all__ = [
    "TASKS",
    "Plan",
    "ProjectData",
    "Survey",
    "choose_plan",
    "find_data",
    "survey_data",
    "write_project",
]
