"""Synthetic images of crushed recycled aggregates on a belt, with true outlines, classes and grams.

A stone is a height field on the belt (:mod:`.stones`) made of a material (:mod:`.materials`). Stones are
packed until they touch (:mod:`.packing`), lit by one sun with cast shadows (:mod:`.lighting`), photographed
(:mod:`.camera`, :mod:`.scene`) and written as a RAMSES folder (:mod:`.writer`, :mod:`.belt`). Thickness is drawn
independently of outline and class: only shading and shadow tell it, so a mass cannot be read off an area.
"""

from ramses_d2.data.synthetic.belt import write_belt
from ramses_d2.data.synthetic.scene import Scene, SceneConfig, render_scene
from ramses_d2.data.synthetic.writer import write_dataset

__all__ = ["Scene", "SceneConfig", "render_scene", "write_belt", "write_dataset"]
