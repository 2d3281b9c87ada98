"""Read folders, split files and COCO jsons into dataset dicts, label maps, ground truth and network inputs."""

from .batch_masses import share_batch_masses
from .coco_source import load_coco
from .dataset_manager import DatasetManager
from .dataset_uri import register, register_datasets
from .folder import load_folder
from .folder_masses import write_batch_masses
from .ground_truth import coco_ground_truth
from .label_map import read_image, read_label_map
from .mapper import RamsesDatasetMapper
from .rle import RLEMasks, encode_in_box, encode_label_map
from .split_file import load_split

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
