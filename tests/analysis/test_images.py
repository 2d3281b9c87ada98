"""Which images a command line means, and their resolutions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from ramses_d2.analysis.run import find_images, in_given_order, read_resolutions
from ramses_d2.errors import RamsesError


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("b/f10.png", "b/f9.png", "b/notes.txt", "b/deep/f1.jpg", "c/f9.tif"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


def names(*sources: str, **options: object) -> list[str]:
    return [image.name for image in find_images(sources, **options)]


def test_folders_are_in_natural_order_and_deep_only_when_asked(images: Path) -> None:
    assert names("b") == ["f9", "f10"]
    assert names("b", recursive=True) == ["f1", "f9", "f10"]


def test_patterns_and_files(images: Path) -> None:
    assert names("b/*.png") == ["f9", "f10"]
    assert names("b/**/*.jpg", "b/f10.png") == ["f1", "f10"]


def test_a_file_is_taken_once_and_equal_names_get_a_number(images: Path) -> None:
    assert names("b", "b/f9.png", "c") == ["f9", "f10", "f9-2"]


@pytest.mark.parametrize(("source", "message"), [("nowhere", "no such"), ("b/*.bmp", "no image"), (".", "--recursive")])
def test_nothing_there_is_one_line(images: Path, source: str, message: str) -> None:
    with pytest.raises(RamsesError, match=message):
        find_images([source])


def test_resolutions_from_a_number_a_csv_and_metadata(images: Path) -> None:
    assert read_resolutions(None) is None and read_resolutions("28.7") == 28.7
    Path("r.csv").write_text("file_name,res\nf9.png,2.5\nf10.png,3\n")
    found = find_images(["b"], read_resolutions("r.csv"))
    assert [image.resolution for image in found] == [2.5, 3.0]
    Path("metadata.json").write_text(json.dumps({"images": [{"file_name": "f9.png", "res": 4}]}))
    assert find_images(["b/f9.png"], read_resolutions("metadata.json"))[0].resolution == 4
    with pytest.raises(RamsesError, match="f10.png is not in the file"):
        find_images(["b"], read_resolutions("metadata.json"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file_name,res\na.png,0\n", "the res of a.png"),
        ("file_name,res\na.png,nan\n", "the res of a.png"),
        ("name,res\na.png,1\n", "needs the columns"),
        ("file_name,res\na.png,1\na.png,2\n", "two resolutions"),
    ],
)
def test_wrong_files_of_resolutions_are_one_line(images: Path, text: str, message: str) -> None:
    Path("r.csv").write_text(text)
    with pytest.raises(RamsesError, match=message) as error:
        read_resolutions("r.csv")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "many"])
def test_wrong_numbers_are_one_line(images: Path, text: str) -> None:
    with pytest.raises(RamsesError, match="--resolution"):
        read_resolutions(text)


def test_a_number_is_never_somebody_elses_name(tmp_path: Path) -> None:
    for name in ("a/x.png", "b/x.png", "b/x-2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    images = find_images([str(tmp_path / "a"), str(tmp_path / "b")])
    assert len({image.name for image in images}) == 3
    assert {image.path.name: image.name for image in images}["x-2.png"] == "x-2"


def test_a_file_named_in_several_ways_is_one(images: Path) -> None:
    (images / "link.png").symlink_to("b/f9.png")
    assert names("b", str(images / "b"), "c/../b/f9.png", "link.png") == ["f9", "f10"]


def test_a_name_that_is_not_utf_8_is_one_line(images: Path) -> None:
    (images / "b" / b"st\xfcck.png".decode(errors="surrogateescape")).write_bytes(b"x")
    with pytest.raises(RamsesError, match=r"st\\udcfcck.png': its name is not UTF-8.*rename it"):
        find_images(["b"])


def test_the_order_of_a_list(images: Path) -> None:
    """Written by Notepad: a byte order mark in front and CRLF; comments, names, names without extension and paths."""
    (images / "order.txt").write_bytes("\ufefff10\r\n# second\r\n\r\nc/f9.tif\r\nb/f9.png\r\n".encode())
    found = find_images(["b", "c"])
    assert [str(image.path) for image in in_given_order(found, "order.txt")] == [
        "b/f10.png",
        "c/f9.tif",
        "b/f9.png",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("f10\nf10.png\n", "f10.png is named twice"),
        ("f9\n", "f9 is several"),
        ("f7\n", "f7 is none"),
        ("#\n", "no name"),
    ],
)
def test_wrong_lists_are_one_line(images: Path, text: str, message: str) -> None:
    (images / "order.txt").write_text(text)
    with pytest.raises(RamsesError, match=message):
        in_given_order(find_images(["b", "c"]), "order.txt")
