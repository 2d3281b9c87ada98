"""Weights: loading that fails loudly when they do not fit."""

from .initial import load_initial_weights
from .load import load_weights

__all__ = ["load_initial_weights", "load_weights"]
