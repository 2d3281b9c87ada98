"""Warnings that Detectron2 0.6 and fvcore raise whenever they are imported, and that nobody can do anything about."""

import warnings

warnings.filterwarnings("ignore", message=".*torch.jit.script. is deprecated", category=FutureWarning)
