"""Whatever a user has, it is recognised; and nothing that is missing is guessed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog

from ramses_d2.data.catalog import register_datasets
from ramses_d2.data.dataset_manager import split_folders
from ramses_d2.errors import RamsesError
from ramses_d2.project import divide_coco, find_data
from tests.project.coco_files import coco_content, write_coco

NAMES = [f"img{index}" for index in range(5)]


@pytest.fixture
def folder(tiny_folder: Callable[..., Path]) -> Path:
    return tiny_folder(sizes=[(64, 96)] * 5)


def test_a_ramses_folder_is_divided(folder: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    data = find_data(str(folder), project, share=0.4)
    assert data.train.endswith("project/split.json#train") and data.valid.endswith("#valid") and not data.test
    assert data.sample == f"ramses://{folder}" and data.training_images(5) == 3
    assert not any(project.iterdir())  # nothing before write
    assert data.write(project) == ["split.json"]
    subsets = json.loads((project / "split.json").read_text())["subsets"]
    assert [len(subsets[name]) for name in ("train", "valid")] == [3, 2]


def test_a_ramses_folder_with_a_validation_set_stays_whole(folder: Path, tmp_path: Path) -> None:
    data = find_data(str(folder), tmp_path, valid="ramses://other", test="ramses://third")
    assert (data.train, data.valid, data.test) == (f"ramses://{folder}", "ramses://other", "ramses://third")
    assert data.write(tmp_path) == [] and data.training_images(5) == 5


def test_a_split_file(folder: Path, tmp_path: Path) -> None:
    _, path = split_folders([folder], tmp_path / "s.json", valid=0.4)
    data = find_data(str(path), tmp_path)
    assert (data.train, data.valid) == (f"ramses://{path}#train", f"ramses://{path}#valid")
    content = json.loads(path.read_text())
    content["subsets"]["test"] = content["subsets"].pop("valid")
    path.write_text(json.dumps(content))
    with pytest.raises(RamsesError, match="subsets train and valid, it has train, test"):
        find_data(str(path), tmp_path)


def test_addresses(folder: Path, tmp_path: Path) -> None:
    data = find_data("ramses://s.json#train", tmp_path)
    assert data.valid == "ramses://s.json#valid"
    assert find_data("ramses://#1/s.json#train", tmp_path).valid == "ramses://#1/s.json#valid"
    with pytest.raises(RamsesError, match="--valid"):
        find_data("coco://a.json", tmp_path)


@pytest.mark.parametrize("valid_name", ["valid.json", "val.json"])
def test_a_folder_with_three_files_and_label_txt(folder: Path, tmp_path: Path, valid_name: str) -> None:
    coco = tmp_path / "coco"
    for name, part in (("train.json", NAMES[:3]), (valid_name, NAMES[3:4]), ("test.json", NAMES[4:])):
        write_coco(coco / name, folder, part)
    shutil.copytree(folder / "images", coco / "images")
    (coco / "label.txt").write_text("glass\nbrick\nconcrete\n")
    data = find_data(str(coco), tmp_path / "project")
    tail = f"?images={coco}/images&labels={coco}/label.txt"
    assert (data.train, data.valid, data.test) == tuple(
        f"coco://{coco}/{name}{tail}" for name in ("train.json", valid_name, "test.json")
    )
    assert not data.files


def test_one_coco_file_is_divided(folder: Path, tmp_path: Path) -> None:
    path = write_coco(tmp_path / "annotations.json", folder, NAMES)
    project = tmp_path / "project"
    data = find_data(str(path), project, images=str(folder / "images"), share=0.2)
    assert data.train == f"coco://{project}/train.json?images={folder}/images"
    assert data.sample == f"coco://{path}?images={folder}/images" and data.training_images(5) == 4
    assert {name: len(part["images"]) for name, part in data.files.items()} == {"train.json": 4, "valid.json": 1}
    # A folder in which it lies alone is as good
    assert find_data(str(tmp_path), project, images=str(folder / "images")).files == data.files


def test_every_image_of_a_divided_file_is_on_one_side(folder: Path) -> None:
    content = coco_content(folder, NAMES)
    for share, seed in ((0.01, 0), (0.5, 1), (0.99, 2)):
        parts = divide_coco(content, share, seed)
        ids = [{image["id"] for image in part["images"]} for part in parts]
        assert ids[0] | ids[1] == {image["id"] for image in content["images"]} and not ids[0] & ids[1] and all(ids)
        assert sum(len(part["annotations"]) for part in parts) == len(content["annotations"])
        assert all(a["image_id"] in side for part, side in zip(parts, ids, strict=True) for a in part["annotations"])
        assert divide_coco(content, share, seed) == parts
    with pytest.raises(RamsesError, match="1 image cannot be divided"):
        divide_coco(content | {"images": content["images"][:1]}, 0.5, 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: str(folder / "nowhere"), "no such folder, file or URI"),
        (lambda folder: str(folder / "images"), "no annotations.csv, no train.json, and 0 COCO files"),
        (lambda folder: str(folder / "labels/img0.png"), "img0.png"),
        (lambda folder: str(folder / "metadata.json"), "metadata.json"),
    ],
)
def test_what_is_no_data(folder: Path, tmp_path: Path, make: Callable[[Path], str], message: str) -> None:
    with pytest.raises(RamsesError, match=message):
        find_data(make(folder), tmp_path)
    with pytest.raises(RamsesError, match="--valid-share 1"):
        find_data(str(folder), tmp_path, share=1.0)


def test_a_ramses_folder_with_letters_that_separate_addresses(folder: Path, tmp_path: Path) -> None:
    odd = shutil.copytree(folder, tmp_path / "R&D 100% #1?" / "belt #2")
    project = tmp_path / "project #3"
    project.mkdir()
    data = find_data(str(odd), project, share=0.4)
    data.write(project)
    split = find_data(str(project / "split.json"), project)
    assert (split.train, split.valid) == (data.train, data.valid)
    assert find_data(data.train, project).valid == data.valid
    register_datasets([data.sample, data.train, data.valid])
    assert [len(DatasetCatalog.get(uri)) for uri in (data.sample, data.train, data.valid)] == [5, 3, 2]


def test_folders_with_letters_that_separate_addresses(folder: Path, tmp_path: Path) -> None:
    odd = tmp_path / "R&D 100% #1?"
    write_coco(odd / "train.json", folder, NAMES[:3])
    write_coco(odd / "valid.json", folder, NAMES[3:])
    shutil.copytree(folder / "images", odd / "images")
    data = find_data(str(odd), tmp_path / "project")
    register_datasets([data.train, data.valid])
    assert [len(DatasetCatalog.get(uri)) for uri in (data.train, data.valid)] == [3, 2]


def test_a_coco_file_with_entries_without_ids(folder: Path, tmp_path: Path) -> None:
    content = coco_content(folder, NAMES)
    del content["images"][0]["id"]
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(content))
    with pytest.raises(RamsesError, match="annotations.json"):
        find_data(str(path), tmp_path / "project", images=str(folder / "images"))
