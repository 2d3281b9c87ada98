"""From instances to answers. Nothing in here knows the network."""

from .appearance import class_colors
from .captions import particle_caption
from .decode import decode_predictions
from .drawing import draw_instances, plot_instances
from .label_image import masks_in_boxes, paint_label_image
from .particles import particle_table

__all__ = [
    "class_colors",
    "decode_predictions",
    "draw_instances",
    "masks_in_boxes",
    "paint_label_image",
    "particle_caption",
    "particle_table",
    "plot_instances",
]
