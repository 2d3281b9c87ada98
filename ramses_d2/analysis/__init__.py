"""From instances to answers: particles, composition, grading. It does not know the network."""

from ramses_d2.analysis.particles import decode_predictions, particle_table
from ramses_d2.draw import class_colors, draw_instances, particle_caption, plot_instances
from ramses_d2.masks import masks_in_boxes, paint_label_image

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
