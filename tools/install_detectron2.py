"""Install Detectron2 0.6 into the running Python as a pure-Python wheel.

The package index has no wheel of Detectron2, only a source archive of release 0.6 without its C++ files.
Nothing in RAMSES needs the compiled operators, so this tool downloads that archive with pip, checks its
sha256, applies the few edits that today's NumPy, Pillow, Python, setuptools and torch ask for (``EDITS``),
and installs the result under its own name, ``detectron2``. A Detectron2 that already imports is left alone.

Needs only the standard library and pip; torch and the rest of requirements.txt must be installed before.
"""

from __future__ import annotations

import argparse
import base64
import errno
import hashlib
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

REQUIREMENT = "pb1-detectron2==0.6"
SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"
VERSION = "0.6"
EXAMPLE = """examples:
  python tools/install_detectron2.py
  python tools/install_detectron2.py --wheel-dir wheels"""


@dataclass(frozen=True)
class Edit:
    """Replace ``old`` by ``new`` in one file; ``old`` must be found exactly ``times`` times."""

    file: str
    old: str
    new: str
    times: int = 1


EDITS = (
    # The archive has no C++ sources: without them there is no `_C`, and COCOeval stands in for its C++ twin.
    Edit("layers/deform_conv.py", "from detectron2 import _C\n", "_C = None\n"),
    Edit("layers/roi_align_rotated.py", "from detectron2 import _C\n", "_C = None\n"),
    Edit("layers/rotated_boxes.py", "from detectron2 import _C\n", "_C = None\n"),
    Edit(
        "evaluation/coco_evaluation.py",
        "from detectron2.evaluation.fast_eval_api import COCOeval_opt\n",
        "COCOeval_opt = COCOeval\n",
    ),
    # Pillow 10 removed LINEAR, an alias of BILINEAR.
    Edit("data/transforms/transform.py", "Image.LINEAR", "Image.BILINEAR"),
    # NumPy 1.24 removed its aliases of Python's types (bool is back in 2.0); NumPy 2 made copy=False strict.
    Edit("data/build.py", "dtype=np.int", "dtype=int", times=2),
    Edit("data/datasets/pascal_voc.py", "dtype=np.str)", "dtype=str)"),
    Edit("evaluation/pascal_voc_evaluation.py", "(np.bool)", "(bool)", times=2),
    Edit("evaluation/sem_seg_evaluation.py", "np.int)", "int)", times=2),
    Edit("evaluation/sem_seg_evaluation.py", "np.float)", "float)", times=5),
    Edit("structures/masks.py", "np.bool)", "bool)", times=3),
    Edit("utils/visualizer.py", "(np.bool)", "(bool)", times=3),
    Edit("utils/video_visualizer.py", "dtype=np.bool)", "dtype=bool)"),
    Edit("layers/mask_ops.py", "np.array(mask, copy=False)", "np.asarray(mask)"),
    # Python 3.11: random.sample takes no set; importlib's submodules are not imported by themselves.
    Edit("data/common.py", "sample(self._fallback_candidates,", "sample(list(self._fallback_candidates),"),
    Edit("projects/__init__.py", "import importlib\n", "import importlib.abc, importlib.util\n"),
    # setuptools 82 removed pkg_resources.
    Edit("model_zoo/model_zoo.py", "import pkg_resources\n", ""),
    Edit("model_zoo/model_zoo.py", "pkg_resources.resource_filename(", "os.path.join("),
    Edit(
        "model_zoo/model_zoo.py",
        '"detectron2.model_zoo", os.path.join("configs", config_path)\n',
        'os.path.dirname(__file__), "configs", config_path\n',
    ),
    # torch 2.11 removed the profiler's use_cuda.
    Edit("engine/hooks.py", "use_cuda=self._use_cuda)", 'use_device="cuda" if self._use_cuda else None)'),
)

# The release's own list, without what only its Caffe2 export (gone from torch) and its code formatter need.
DEPENDENCIES = """
    torch torchvision Pillow>=7.1 matplotlib pycocotools>=2.0.2 termcolor>=1.1 yacs>=0.1.8 tabulate
    cloudpickle tqdm>4.29.0 tensorboard fvcore>=0.1.5,<0.1.6 iopath>=0.1.7 omegaconf>=2.1 hydra-core>=1.1
""".split()

# The release installs these three projects inside the package.
PROJECTS = {
    "detectron2/projects/point_rend": "projects/PointRend/point_rend",
    "detectron2/projects/deeplab": "projects/DeepLab/deeplab",
    "detectron2/projects/panoptic_deeplab": "projects/Panoptic-DeepLab/panoptic_deeplab",
}


class InstallError(Exception):
    """The installation cannot go on; the message is one line: what is wrong and what to do."""


def main() -> None:
    """Command line: install Detectron2, or only build its wheel."""
    parser = argparse.ArgumentParser(
        description="Install Detectron2 0.6, as a pure-Python wheel, into the Python that runs this.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--wheel-dir", type=Path, help="only build the wheel, into this folder")
    wheel_dir = parser.parse_args().wheel_dir
    try:
        if wheel_dir is not None:
            wheel_dir.mkdir(parents=True, exist_ok=True)
            print(f"Built {build(wheel_dir)}")
            return
        location, problem = find_installed()
        if problem:
            raise InstallError(
                f"the Detectron2 in {location} does not import ({problem}): install what it misses "
                "(requirements.txt), or remove it (pip uninstall detectron2) and run this again"
            )
        if location:
            print(f"Detectron2 already imports from {location}: left alone.")
        else:
            with tempfile.TemporaryDirectory() as folder:
                location = install(build(Path(folder)))
            print(f"Installed Detectron2 {VERSION} (pure Python) at {location}.")
    except InstallError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        hint = "free some disk space" if error.errno == errno.ENOSPC else "check the disk and its permissions"
        sys.exit(f"error: {error}; {hint} and run this again; nothing was installed")


def find_installed() -> tuple[str, str]:
    """Folder of the Detectron2 that this Python finds ("" = none), and why it does not import ("" = it does).

    A fresh process looks, so the answer is right after an installation too.
    """
    probe = (
        "import importlib.util as util; spec = util.find_spec('detectron2')\n"
        "print('detectron2:', spec.submodule_search_locations[0] if spec else '', flush=True)\n"
        "if spec: import detectron2.engine, detectron2.evaluation, detectron2.modeling"
    )
    result = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    location = result.stdout.partition("detectron2: ")[2].partition("\n")[0]
    if result.returncode == 0:
        return location, ""
    return location, (result.stderr.strip().splitlines() or ["no message"])[-1]


def build(wheel_dir: Path) -> Path:
    """Download, check, unpack, edit and pack; returns the finished wheel in ``wheel_dir``."""
    with tempfile.TemporaryDirectory() as folder:
        archive = download(Path(folder))
        check_hash(archive, SHA256)
        source = unpack(archive, Path(folder) / "source")
        apply_edits(source / "detectron2", EDITS)
        return write_wheel(source, wheel_dir)


def download(folder: Path) -> Path:
    """Fetch the source archive into ``folder`` with this Python's pip, from pip's own index."""
    check_pip()
    # pip reads hashes from a requirements file only; it then refuses a wrong archive before running it.
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{REQUIREMENT} --hash=sha256:{SHA256}\n")
    run_pip("download", "--no-deps", "--no-build-isolation", "--dest", str(folder), "--requirement", str(wanted))
    archives = list(folder.glob("*.tar.gz"))
    if len(archives) != 1:
        raise InstallError(f"pip downloaded {len(archives)} archives of {REQUIREMENT}, not 1; nothing was installed")
    return archives[0]


def check_pip() -> None:
    """Stop unless pip can read the archive's old metadata and torch, which its setup.py imports, is there."""
    try:
        version = importlib.metadata.version("pip")
    except importlib.metadata.PackageNotFoundError:
        raise InstallError(f"this Python has no pip: run '{sys.executable} -m ensurepip' first") from None
    if int(version.split(".")[0]) >= 26:
        raise InstallError(
            f"pip {version} refuses the metadata of {REQUIREMENT}: "
            f"run '{sys.executable} -m pip install \"pip<26\"' first"
        )
    for module in ("torch", "setuptools"):
        if importlib.util.find_spec(module) is None:
            raise InstallError(
                f"{module} is not installed: run '{sys.executable} -m pip install -r requirements.txt' first"
            )


def run_pip(*arguments: str) -> None:
    """Run pip; when it fails, stop with the reason it gives, on one line."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode == 0:
        return
    output = result.stderr + result.stdout
    reason = next((line for line in output.splitlines() if line.lower().startswith("error:")), "no message")
    if "No space left on device" in output:
        hint = "free some disk space"
    elif "DO NOT MATCH THE HASHES" in output:
        hint = f"the index serves an archive whose sha256 is not {SHA256}; do not use it"
    elif arguments[0] == "download":
        hint = "check the network and pip's index settings"
    else:
        hint = "see pip's message"
    raise InstallError(f"pip {arguments[0]} failed ({reason}): {hint}; nothing was installed")


def check_hash(archive: Path, sha256: str) -> None:
    """Stop when the archive is not the one this tool was written for."""
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != sha256:
        raise InstallError(f"{archive.name} has sha256 {found}, not {sha256}: do not use it; nothing was installed")


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack a .tar.gz of plain files and folders into ``folder``; returns its single top folder.

    Raises:
        InstallError: a member is a link or a device, or would land outside ``folder``; nothing is unpacked.
    """
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            path = PurePosixPath(member.name)
            if path.is_absolute() or ".." in path.parts or not (member.isfile() or member.isdir()):
                raise InstallError(f"{archive.name} holds the unsafe {member.name!r}; nothing was installed")
        # Pythons without the filter (before 3.11.4) rely on the check above.
        tar.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)
        tar.extractall(folder)
    tops = list(folder.iterdir())
    if len(tops) != 1:
        raise InstallError(f"{archive.name} holds {len(tops)} top folders, expected 1; nothing was installed")
    return tops[0]


def apply_edits(package: Path, edits: tuple[Edit, ...]) -> None:
    """Edit the files of ``package`` in place, each line exactly as often as expected or not at all.

    Raises:
        InstallError: a file is missing, or a line is not found as often as the table says.
    """
    for edit in edits:
        path = package / edit.file
        if not path.is_file():
            raise InstallError(f"{package.name}/{edit.file} is not in the archive; nothing was installed")
        text = path.read_text(encoding="utf-8")
        found = text.count(edit.old)
        if found != edit.times:
            raise InstallError(
                f"{package.name}/{edit.file}: expected {edit.old.strip()!r} {edit.times} time(s), "
                f"found {found}: not the release {VERSION} this tool knows; nothing was installed"
            )
        path.write_text(text.replace(edit.old, edit.new), encoding="utf-8")


def write_wheel(source: Path, wheel_dir: Path) -> Path:
    """Pack ``source/detectron2`` and its projects as a wheel; complete or not at all."""
    wheel = wheel_dir / f"detectron2-{VERSION}-py3-none-any.whl"
    unfinished = wheel.with_suffix(".part")
    record = f"detectron2-{VERSION}.dist-info/RECORD"
    try:
        with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED) as archive:
            lines = []
            for name, content in wheel_files(source):
                digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
                lines.append(f"{name},sha256={digest},{len(content)}\n")
                archive.writestr(name, content)
            archive.writestr(record, "".join([*lines, f"{record},,\n"]))
        os.replace(unfinished, wheel)
    finally:
        unfinished.unlink(missing_ok=True)
    return wheel


def wheel_files(source: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (name in the wheel, content) of every file but RECORD."""
    folders = {"detectron2": "detectron2", **PROJECTS}
    for target, folder in folders.items():
        for path in sorted((source / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield f"{target}/{path.relative_to(source / folder).as_posix()}", path.read_bytes()
    info = f"detectron2-{VERSION}.dist-info"
    metadata = [
        "Metadata-Version: 2.1",
        "Name: detectron2",
        f"Version: {VERSION}",
        "Summary: Detectron2 (FAIR), release 0.6 as pure Python, with small edits for current libraries",
        "Home-page: https://github.com/facebookresearch/detectron2",
        "License: Apache-2.0",
        "Requires-Python: >=3.7",
        *(f"Requires-Dist: {dependency}" for dependency in DEPENDENCIES),
    ]
    yield f"{info}/METADATA", ("\n".join(metadata) + "\n").encode()
    tags = [
        "Wheel-Version: 1.0",
        "Generator: install_detectron2",
        "Root-Is-Purelib: true",
        "Tag: py3-none-any",
    ]
    yield f"{info}/WHEEL", ("\n".join(tags) + "\n").encode()
    yield f"{info}/LICENSE", (source / "LICENSE").read_bytes()


def install(wheel: Path) -> str:
    """Install the wheel and import it; returns its folder. A wheel that does not import is removed again."""
    run_pip("install", "--no-deps", "--no-index", str(wheel))
    location, problem = find_installed()
    if problem:
        run_pip("uninstall", "--yes", "detectron2")
        raise InstallError(
            f"Detectron2 was built but does not import ({problem}), so it was removed again: run "
            f"'{sys.executable} -m pip install -r requirements.txt' first"
        )
    return location


if __name__ == "__main__":
    main()
