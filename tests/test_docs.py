"""The documents agree with the code: keys and defaults, files, flags, links. Lines and paragraphs are short."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import default_argument_parser

from ramses_d2 import add_ramses_config
from ramses_d2.engine import load_config
from ramses_d2.modeling.postprocess import InferenceSettings

ROOT = Path(__file__).parents[1]
PAGE, BASE = ROOT / "docs/configuration.md", ROOT / "configs/Base-RAMSES.yaml"
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), ROOT / "datasets/README.md"]
KEY = re.compile(r"[A-Z][A-Z0-9_]*(?:\.[A-Z][A-Z0-9_]*)+|SEED|OUTPUT_DIR")
FILE = re.compile(r"(?:configs|datasets|docs|ramses_d2|tests|tools)/[\w./-]+\.(?:py|yaml|md|jpg)")
MADE_BY_READERS = ("datasets/mine", "datasets/demo")
GONE = {"docs/differences.md", "tools/benchmark_outputs.py"}  # named in docs/changes.md
LINES_OF_README, COLUMNS, LINES_OF_PARAGRAPH = 100, 140, 6
OF_DOCUMENT = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL)


def prose(document: Path) -> str:
    """A document without its code blocks."""
    return re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)


def code(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


@cache
def rows() -> list[tuple[str, str, dict[str, str]]]:
    """The table rows of the page: the chapter, the heading above the table, and the cells by column."""
    found, chapter, heading, columns = [], "", "", []
    for line in prose(PAGE).splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
            chapter = heading if line.startswith("## ") else chapter
        if not line.startswith("|"):
            columns = []
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if columns and set(line) - set("|-"):
            found.append((chapter, heading, dict(zip(columns, cells, strict=True))))
        columns = columns or cells
    return found


def leaves(node: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@cache
def config(source: str) -> dict[str, Any]:
    """Keys and values: of "detectron2", of it with our keys ("ours"), of Base-RAMSES.yaml ("base")."""
    cfg = load_config(str(BASE)) if source == "base" else get_cfg()
    if source == "ours":
        add_ramses_config(cfg)
    without_cuda = {"MODEL.DEVICE": "cuda", "SOLVER.AMP.ENABLED": True} if source == "base" else {}
    return dict(leaves(cfg)) | without_cuda


def same(cell: str, value: Any) -> bool:
    """Whether a documented value is the config's, type included."""
    return repr(ast.literal_eval(code(cell)[0])) == repr(value)


def test_every_key_of_ours_has_a_row_with_its_default() -> None:
    """In chapters by node: the heading names the node, the rows its keys."""
    ours = {key: value for key, value in config("ours").items() if key not in config("detectron2")}
    documented = {
        f"{code(heading)[0]}.{code(cells['key'])[0]}": cells["default"]
        for chapter, heading, cells in rows()
        if chapter == "All keys that RAMSES adds"
    }
    assert documented.keys() == ours.keys()
    assert [key for key, default in documented.items() if not same(default, ours[key])] == []


def test_detectron2_keys_have_their_two_values() -> None:
    for cells in (cells for chapter, _, cells in rows() if chapter == "Detectron2's keys"):
        key = code(cells["key"])[0]
        assert same(cells["Detectron2's"], config("detectron2")[key]), key
        assert same(cells["Base-RAMSES.yaml"], config("base")[key]), key


def test_keywords_of_the_predictor() -> None:
    documented = {code(cells["keyword"])[0] for _, _, cells in rows() if "keyword" in cells}
    assert documented == {"resolution", *InferenceSettings.override.__kwdefaults__}


def test_every_snippet_fits_the_base_config(tmp_path: Path) -> None:
    for snippet in blocks(PAGE, "yaml"):
        path = tmp_path / "snippet.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(snippet) | {"_BASE_": str(BASE)}))
        ramses = load_config(str(path)).MODEL.RAMSES
        assert len(ramses.IN_FEATURES) == len(ramses.GRID_SIZES) == len(ramses.SCALE_RANGES), snippet


@OF_DOCUMENT
def test_every_key_named_exists(document: Path) -> None:
    """Keys with their whole path, and keys with a prefix of our nodes left out (`TEST.MIN_AREA`)."""
    known = set(config("ours"))
    nodes = {key.rpartition(".")[0] for key in known}
    tails = {key.split(".", depth)[-1] for key in known | nodes for depth in range(1, key.count("."))}
    named = {name.split()[0].rstrip(":") for name in code(prose(document))}
    assert {name for name in named if KEY.fullmatch(name)} <= known | nodes | tails


@OF_DOCUMENT
def test_every_file_and_link_exists(document: Path) -> None:
    text = prose(document) if document.name == "CONTRIBUTING.md" else document.read_text(encoding="utf-8")
    named = {name for name in FILE.findall(text) if not name.startswith(MADE_BY_READERS)} - GONE
    assert {name for name in named if not any((folder / name).exists() for folder in (ROOT, document.parent))} == set()
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", prose(document)):
        name, _, anchor = target.partition("#")
        path = document.parent / name if name else document
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, target


@OF_DOCUMENT
def test_every_flag_of_a_command_exists(document: Path) -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tools").rglob("*.py"))
    commands = "".join(blocks(document, "bash")).replace("\\\n", " ").splitlines()
    used = {flag for line in commands if "tools/" in line for flag in re.findall(r" (--[a-z][\w-]+)", line)}
    known = set(re.findall(r'"(--[a-z][\w-]+)"', sources + inspect.getsource(default_argument_parser)))
    assert used - known == set()


@OF_DOCUMENT
def test_lines_and_paragraphs_are_short(document: Path) -> None:
    lines = document.read_text(encoding="utf-8").splitlines()
    assert document != ROOT / "README.md" or len(lines) <= LINES_OF_README
    assert [line for line in lines if len(line) > COLUMNS] == []
    text = re.sub(r"^(#|\|).*$", "", prose(document), flags=re.MULTILINE)  # headings and tables part paragraphs
    parts = re.split(r"\n\s*\n|\n(?=\s*(?:[*-]|\d+\.) )", text)
    assert [part for part in parts if len(part.strip().splitlines()) > LINES_OF_PARAGRAPH] == []
