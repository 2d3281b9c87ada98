"""Weights: loading that fails loudly when they do not fit."""

from ramses_d2.checkpoint.load import load_initial_weights, load_weights

__all__ = ["load_initial_weights", "load_weights"]
