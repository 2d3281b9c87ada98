"""Names of images: what they are called with and without folder and extension."""

from __future__ import annotations

import pandas as pd

from ramses_d2.files import base_name, base_names


def test_folder_and_extension_go_but_dots_stay() -> None:
    names = ("x.JPG", "D:\\pictures\\x.tif", "images/x.png", "x", "scan.1", "rec_0.5", "rec_0.5.webp")
    assert [base_name(name) for name in names] == ["x", "x", "x", "x", "scan.1", "rec_0.5", "rec_0.5"]


def test_a_base_name_that_looks_like_a_file_name_stays() -> None:
    column = pd.Series(["a.tif", "b.tif", "images/b.png"], index=[4, 6, 7])
    assert base_names(column, {"a.tif": 1, "b": 2}).to_dict() == {4: "a.tif", 6: "b", 7: "b"}
