"""How good a model is: COCO average precision, and the masses of particles and of whole data sets."""

from .coco_ap import evaluate_ap
from .evaluator import RamsesEvaluator
from .mass_metrics import evaluate_masses
from .power_law import PowerLaw, fit_power_law

__all__ = ["PowerLaw", "RamsesEvaluator", "evaluate_ap", "evaluate_masses", "fit_power_law"]
