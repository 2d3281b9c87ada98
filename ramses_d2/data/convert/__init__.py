"""Convert data sets: a reader turns a format into a :class:`Source`, a writer turns that into a format.

======================  ==================================  ========================================
format                  reader                              writer
======================  ==================================  ========================================
RAMSES folder           :func:`read_ramses`                 :func:`write_ramses`
COCO json               :func:`read_coco`                   :func:`write_coco`
SOLOv2 layout           :func:`read_solov2`                 :func:`write_solov2`
Pascal VOC instances    :func:`read_voc`                    :func:`write_voc`
Open Images V5 - V7     :func:`read_open_images`
label images            :func:`read_label_images`
======================  ==================================  ========================================

Images are read and written one at a time; only the rows of the tables are held.
"""

from ramses_d2.data.convert.coco import read_coco, write_coco
from ramses_d2.data.convert.label_images import read_label_images
from ramses_d2.data.convert.open_images import OpenImagesFiles, read_open_images
from ramses_d2.data.convert.output import Report
from ramses_d2.data.convert.ramses import read_ramses
from ramses_d2.data.convert.solov2_layout import read_solov2, write_solov2
from ramses_d2.data.convert.source import Source, SourceImage
from ramses_d2.data.convert.voc import read_voc, write_voc
from ramses_d2.data.convert.writer import write_ramses

__all__ = [
    "OpenImagesFiles",
    "SourceImage",
    "Report",
    "Source",
    "read_coco",
    "read_label_images",
    "read_open_images",
    "read_ramses",
    "read_solov2",
    "read_voc",
    "write_coco",
    "write_ramses",
    "write_solov2",
    "write_voc",
]
