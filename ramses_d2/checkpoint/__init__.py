"""Weights: loading that fails loudly when they do not fit."""

from .load import load_weights

__all__ = ["load_weights"]
