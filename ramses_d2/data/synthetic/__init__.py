"""Synthetic images of crushed recycled aggregates on a belt, with true masks, classes and masses.

Thickness is drawn independently of outline and class: only shading and shadow tell it, so a mass cannot be read off an
area.
"""

from ramses_d2.data.synthetic.dataset import write_belt, write_dataset
from ramses_d2.data.synthetic.scene import Scene, SceneConfig, render_scene

__all__ = ["Scene", "SceneConfig", "render_scene", "write_belt", "write_dataset"]
