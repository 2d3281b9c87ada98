"""Package metadata of ramses_d2; pyproject.toml holds the build system and the tool settings."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
INIT = (ROOT / "ramses_d2" / "__init__.py").read_text(encoding="utf-8")
VERSION = re.search(r'^__version__ = "(.+)"$', INIT, re.MULTILINE).group(1)

setup(
    name="ramses_d2",
    version=VERSION,
    description="Masks, classes and masses of every particle in an image, on PyTorch and Detectron2",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    packages=find_packages(include=["ramses_d2", "ramses_d2.*"]),
    package_data={"ramses_d2": ["templates/*"], "ramses_d2.analysis.report": ["templates/*"]},
    python_requires=">=3.10",
    install_requires=[
        "torch>=2.4",
        "torchvision>=0.19",
        "fvcore>=0.1.5.post20221221",
        "pycocotools>=2.0.7",
        "faster-coco-eval>=1.6",
        "timm>=1.0.20",
        "numpy>=1.26",
        "pandas>=2.2",
        "scipy>=1.11",
        "scikit-image>=0.22",
        "opencv-python-headless>=4.8",
        "pillow>=10.0",
        "matplotlib>=3.8",
        "jinja2>=3.1",
        "tabulate>=0.9",
        "tensorboard>=2.14",
        "tqdm>=4.66",
        # Detectron2 itself is not listed because the package index has no wheel of it:
        # tools/install_detectron2.py or a source build provides it. These are its own needs.
        "cloudpickle>=3.0",
        "hydra-core>=1.3",
        "iopath>=0.1.9",
        "omegaconf>=2.3",
        "termcolor>=2.0",
        "yacs>=0.1.8",
    ],
    extras_require={"dev": ["pytest>=8.0", "pytest-xdist>=3.5", "hypothesis>=6.100", "ruff>=0.6", "wheel>=0.40"]},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)
