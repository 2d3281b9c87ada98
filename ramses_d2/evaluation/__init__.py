"""How good a model is: COCO average precision, and the masses of particles and of whole data sets."""

from ramses_d2.evaluation.coco import evaluate_ap
from ramses_d2.evaluation.evaluator import RamsesEvaluator
from ramses_d2.evaluation.masses import PowerLaw, evaluate_masses, fit_power_law

__all__ = ["PowerLaw", "RamsesEvaluator", "evaluate_ap", "evaluate_masses", "fit_power_law"]
