"""From instances to answers. Nothing in here knows the network."""

from .label_image import masks_in_boxes, paint_label_image
from .overlay import class_colors, draw_overlay, particle_caption
from .particles import particle_table

__all__ = ["class_colors", "draw_overlay", "masks_in_boxes", "paint_label_image", "particle_caption", "particle_table"]
