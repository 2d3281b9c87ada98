"""Weights: loading that fails loudly when they do not fit. Importing it registers the backbone builders."""

from ramses_d2.checkpoint.load import load_initial_weights, load_weights
from ramses_d2.checkpoint.pretrained import load_backbone

__all__ = ["load_backbone", "load_initial_weights", "load_weights"]
