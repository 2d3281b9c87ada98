"""Read folders, split files and COCO jsons into dataset dicts, label maps, ground truth and network inputs."""

from ramses_d2.data.batch_masses import share_batch_masses, write_batch_masses
from ramses_d2.data.catalog import register, register_datasets
from ramses_d2.data.coco import coco_ground_truth, load_coco
from ramses_d2.data.dataset_manager import DatasetManager
from ramses_d2.data.folder import load_folder
from ramses_d2.data.images import read_image, read_label_map
from ramses_d2.data.mapper import RamsesDatasetMapper
from ramses_d2.data.splits import load_split
from ramses_d2.masks import RLEMasks, encode_in_box, encode_label_map

__all__ = [
    "DatasetManager",
    "RLEMasks",
    "RamsesDatasetMapper",
    "coco_ground_truth",
    "encode_in_box",
    "encode_label_map",
    "load_coco",
    "load_folder",
    "load_split",
    "read_image",
    "read_label_map",
    "register",
    "register_datasets",
    "share_batch_masses",
    "write_batch_masses",
]
