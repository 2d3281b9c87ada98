"""docs/configuration.md agrees with the config, names every old key, and no document links to nowhere."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from detectron2.config import CfgNode, get_cfg

from ramses_d2 import analysis
from ramses_d2.config import add_ramses_config, load_config
from ramses_d2.modeling.postprocess import InferenceSettings

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/configuration.md"
BASE, SOLOV2 = ROOT / "configs/Base-RAMSES.yaml", ROOT / "configs/SOLOv2/solov2_X50_FPN_readme.yaml"
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "datasets/README.md"]
KEY = re.compile(r"[A-Z][A-Z0-9_]*(?:\.[A-Z][A-Z0-9_]*)+|SEED|OUTPUT_DIR")
NO_KEY = ("gone", "not yet here")

# The originals' settings, from their sources: heading of the table -> names that must have a row
OLD_KEYS = {
    "RAMSES2 `Config`": """load_backbone backbone_params backbone backbone_source backbone_feature_nodes ncls imshape
        mask_stride activation normalization normalization_kw connection_layers FPN_filters extra_FPN_layers strides
        head_layers head_filters kernel_size grid_sizes cls_factor_layers point_nms mask_mid_filters mask_output_filters
        geom_feat_convs geom_feats_filters mask_output_level FPN_output_upscaling sigma_nms min_area use_binary_masks
        lossweights max_pos_samples scale_ranges offset_factor use_geom""",
    "RAMSES2 `TrainConfig`": """losses seg_loss label_smoothing cls_threshold max_pos mask_quality_weighting use_geom
        lr""",
    "RAMSES2 training notebook": """optimizer lr weight_decay ReduceLROnPlateau max_epochs EarlyStopping
        gradient_clip_val batch_size num_workers shuffle accelerator precision ModelCheckpoint freeze_backbone
        freeze_FPN freeze_cls_head freeze_kernel_mask_head freeze_density_layers probability brightness noise factor p
        max_patches min_patch_ratio max_patch_ratio allow_self_mix max_resample_attempts""",
    "RAMSES2 data sets": """annotations input_shape crop_to_aspect_ratio mask_stride cls_to_idx mininst maxinst exclude
        minres seed filter_annotations filenames transform random_resize_method n ntrain nval subset not_counting
        max_reuse append dataset_name constraint mass shuffle ds_id hasmass method""",
    "RAMSES2 model call": """training cls_threshold nms_threshold mask_threshold max_detections scale_by_mask_scores
        min_area nms_mode""",
    "RAMSES2 `predict` and `stream_predict`": """output_dir input_size resolution input_dir model idx_to_cls thresholds
        crop_to_ar create_coco_anns max_detections minarea subdirs save_imgs device boundary_mode fontscale deltaL
        weight_by_scores bgcolor""",
    "RAMSES2 `evaluate`": """model dataset annotations maxiter ids_to_cls iou_threshold mask_stride cls_threshold
        nms_threshold mask_threshold max_detections scale_by_mask_scores min_area nms_mode exclude verbose
        remove_wiggles device shuffle""",
    "RAMSES `Config`": """load_backbone backbone_params backbone ncls imshape mask_stride activation normalization
        normalization_kw model_name connection_layers FPN_filters extra_FPN_layers strides head_layers head_filters
        kernel_size grid_sizes scale_ranges offset_factor point_nms mask_mid_filters mask_output_filters geom_feat_convs
        geom_feats_filters mask_output_level sigma_nms nms_sigma min_area lossweights max_pos_samples threshold_metrics
        compute_cls_loss compute_seg_loss compute_density_loss""",
    "RAMSES calls": """score_threshold seg_threshold nms_threshold max_detections point_nms use_binary_masks min_area
        sigma_nms weight_by_scores minsize model_file augmentation_func""",
    "SOLOv2 `Config`": """load_backbone backbone_params backbone ncls imshape activation normalization normalization_kw
        model_name connection_layers FPN_filters extra_FPN_layers head_filters strides head_layers kernel_size
        grid_sizes scale_ranges offset_factor mask_mid_filters mask_output_filters lossweights""",
    "SOLOv2 calls": """score_threshold seg_threshold nms_threshold max_detections --size --thresholds --max_inst --res
        --minarea --minsize --delta --bgcolor --weight_by_scores""",
}


class Row(NamedTuple):
    """A table row: the heading above it, and its cells by column."""

    heading: str
    cells: dict[str, str]


@cache
def rows() -> list[Row]:
    """All table rows of the page."""
    found, heading, columns = [], "", []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        if not line.startswith("|"):
            columns = []
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not columns:
            columns = cells
        elif set(line) - set("|-"):
            assert len(cells) == len(columns), line
            found.append(Row(heading, dict(zip(columns, cells, strict=True))))
    return found


def old_key_rows() -> list[Row]:
    return [row for row in rows() if "old key" in row.cells]


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def prose(document: Path) -> str:
    """A document without its code blocks."""
    return re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)


def keys(cell: str) -> list[str]:
    return [name for name in code(cell) if KEY.fullmatch(name)]


def leaves(node: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@cache
def config(path: Path | None = None) -> dict[str, Any]:
    """Keys and values: of a file, of plain Detectron2 with our keys (None)."""
    if path is None:
        cfg = get_cfg()
        add_ramses_config(cfg)
    else:
        cfg = load_config(str(path))
    return dict(leaves(cfg)) | (
        {"MODEL.DEVICE": "cuda", "SOLVER.AMP.ENABLED": True} if path else {}
    )  # not the machine's


def same(text: str, value: Any) -> bool:
    """Whether a documented value is the config's, type included."""
    documented = ast.literal_eval(text)
    return documented == value and type(documented) is type(value)


def test_every_key_of_ours_is_in_the_reference_in_order_with_its_default() -> None:
    plain = dict(leaves(get_cfg()))
    ours = {key: value for key, value in config().items() if key not in plain}
    documented = {keys(row.cells["key"])[0]: row for row in rows() if row.heading == "All keys that RAMSES adds"}
    assert documented.keys() == ours.keys()
    wrong = [key for key, row in documented.items() if not same(code(row.cells["default"])[0], ours[key])]
    assert wrong == []
    source = (ROOT / "ramses_d2/config.py").read_text(encoding="utf-8")
    in_source = [key for key in re.findall(r"^    cfg\.([A-Z0-9_.]+) = ", source, re.MULTILINE) if key in ours]
    assert list(documented) == in_source
    assert all(row.cells["meaning and unit"] for row in documented.values())


def test_detectron2_keys_have_their_two_values() -> None:
    documented = [row.cells for row in rows() if row.heading == "Detectron2's keys"]
    assert len(documented) > 30
    for cells in documented:
        (key,) = keys(cells["key"])
        assert same(code(cells["Detectron2's"])[0], dict(leaves(get_cfg()))[key]), key
        assert same(code(cells["Base-RAMSES.yaml"])[0], config(BASE)[key]), key


@pytest.mark.parametrize("heading", OLD_KEYS)
def test_every_old_key_has_a_row(heading: str) -> None:
    named = {name for row in old_key_rows() if row.heading == heading for name in code(row.cells["old key"])}
    assert set(OLD_KEYS[heading].split()) - named == set()


def test_every_row_of_an_old_key_is_complete() -> None:
    assert {row.heading for row in old_key_rows()} == OLD_KEYS.keys()
    for row in old_key_rows():
        cells = row.cells
        assert all(cells.values()), row
        new = cells["new key"]
        assert new in NO_KEY or keys(new) or "`tools/" in new, row
        assert (cells["default here"] == "–") == (not keys(new)), row


def test_defaults_here_are_those_of_the_files() -> None:
    for row in old_key_rows():
        values = config(SOLOV2 if row.heading.startswith("SOLOv2") else BASE)
        new, defaults = keys(row.cells["new key"]), code(row.cells["default here"])
        assert len(new) == len(defaults), row
        for key, default in zip(new, defaults, strict=True):
            assert same(default, values[key]), f"{row.heading}: {key} is {values[key]!r}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_key_named_exists(document: Path) -> None:
    """In code spans: keys with their whole path, and keys with a prefix of our nodes left out (`TEST.MIN_AREA`)."""
    known = set(config())
    nodes = {key.rpartition(".")[0] for key in known}
    named = {name.split()[0].rstrip(":") for name in code(prose(document))}
    named = {name for name in named if KEY.fullmatch(name)}
    tails = {key.split(".", depth)[-1] for key in known | nodes for depth in range(1, key.count("."))}
    assert named - known - nodes - tails == set()


def test_keywords_of_the_predictor() -> None:
    documented = [row.cells for row in rows() if "keyword" in row.cells]
    names = [code(cells["keyword"])[0] for cells in documented]
    overrides = list(InferenceSettings.override.__kwdefaults__)
    assert sorted(names) == sorted(["resolution", *overrides])
    assert all(keys(cells["key"]) and set(keys(cells["key"])) <= config().keys() for cells in documented)


def test_drawing_and_decoding_calls() -> None:
    documented = [row.cells for row in rows() if "old argument" in row.cells]
    assert {code(cells["call"])[0] for cells in documented} == {
        "decode_predictions",
        "draw_instances",
        "plot_instances",
    }
    for cells in documented:
        if cells["new argument"] in NO_KEY:
            continue
        (name,) = code(cells["new argument"])
        default = inspect.signature(getattr(analysis, code(cells["call"])[0])).parameters[name].default
        if cells["default here"] == "–":
            assert default is inspect.Parameter.empty, cells
        else:
            assert same(code(cells["default here"])[0], default), cells


def test_every_snippet_fits_the_base_config(tmp_path: Path) -> None:
    snippets = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(snippets) > 10
    for number, snippet in enumerate(snippets):
        path = tmp_path / f"{number}.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(snippet) | {"_BASE_": str(BASE)}))
        ramses = load_config(str(path)).MODEL.RAMSES
        assert len(ramses.IN_FEATURES) == len(ramses.GRID_SIZES) == len(ramses.SCALE_RANGES), snippet


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if "://" in target or target.startswith("mailto:"):
            continue
        name, _, anchor = target.partition("#")
        path = document.parent / name if name else document
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}, (
                target
            )
