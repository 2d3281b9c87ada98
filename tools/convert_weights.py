#!/usr/bin/env python
r"""Convert weights and configs of RAMSES2 and ConvNeXt V2, and back to RAMSES2.

Examples:
    python tools/convert_weights.py ramses2 --weights checkpoints/2048x3072/best-val-loss.pt --output output/published
    python tools/convert_weights.py config --config config.json --output configs/mine.yaml
    python tools/convert_weights.py export-ramses2 --config output/demo/config.yaml \
        --weights output/demo/model_final.pth --output output/for_ramses2
    python tools/convert_weights.py convnextv2 --weights convnextv2_femto_1k_224_ema.pt --output femto.pth
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ramses_d2.checkpoint.ramses2_weights import CLASSES_FILE, export_ramses2, import_config, import_ramses2
from ramses_d2.errors import exit_on_error


def ramses2(args: argparse.Namespace) -> str:
    """RAMSES2 network to ours; config.json and classes.json are looked for beside the weights."""
    config = args.config or str(Path(args.weights).with_name("config.json"))
    classes = args.classes or str(Path(config).with_name(CLASSES_FILE))
    wrote = import_ramses2(args.weights, config, classes, args.output, force=args.force)
    files = f"--config-file {Path(args.output, 'config.yaml')} --weights {Path(args.output, 'model.pth')}"
    return f"{wrote}\nnext: python tools/predict.py {files} --input PICTURE --resolution PX_PER_MM --output predictions"


def config(args: argparse.Namespace) -> str:
    """RAMSES2 config.json to YAML, with the class names if there are any."""
    beside = Path(args.config).with_name(CLASSES_FILE)
    classes = args.classes or (str(beside) if beside.is_file() else None)
    return import_config(args.config, classes, args.output, force=args.force)


def to_ramses2(args: argparse.Namespace) -> str:
    """Our network to RAMSES2."""
    return export_ramses2(args.config, args.weights, args.output, force=args.force)


def convnextv2(args: argparse.Namespace) -> str:
    """Official ConvNeXt V2 file to a checkpoint of the backbone."""
    from ramses_d2.checkpoint.pretrained import convert_convnextv2

    return convert_convnextv2(args.weights, args.output, name=args.name, force=args.force)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)

    def add(name: str, run: object, text: str, example: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, epilog=f"example: {example}")
        command.set_defaults(run=run)
        command.add_argument("--output", required=True, help="file or folder to make")
        command.add_argument("--force", action="store_true", help="replace an earlier conversion")
        return command

    command = add(
        "ramses2",
        ramses2,
        "RAMSES2 network -> folder with model.pth, config.yaml and classes.json",
        "convert_weights.py ramses2 --weights checkpoints/2048x3072/best-val-loss.pt --output output/published",
    )
    command.add_argument("--weights", required=True, help="best-val-loss.pt, or a Lightning .ckpt")
    command.add_argument("--config", help="default: config.json beside the weights")
    command.add_argument("--classes", help="{name: id}; default: classes.json beside the config")

    command = add(
        "config",
        config,
        "RAMSES2 config.json -> YAML, without weights",
        "convert_weights.py config --config config.json --output configs/mine.yaml",
    )
    command.add_argument("--config", required=True, help="config.json")
    command.add_argument("--classes", help="{name: id}; default: classes.json beside the config, if there is one")

    command = add(
        "export-ramses2",
        to_ramses2,
        "our network -> folder with best-val-loss.pt, config.json and classes.json that RAMSES2 loads",
        "convert_weights.py export-ramses2 --config output/demo/config.yaml --weights output/demo/model_final.pth "
        "--output output/for_ramses2",
    )
    command.add_argument("--config", required=True, help="our config.yaml")
    command.add_argument("--weights", required=True, help="our checkpoint, such as model_final.pth")

    command = add(
        "convnextv2",
        convnextv2,
        "official ConvNeXt V2 file (fine-tuned or FCMAE) -> checkpoint of the backbone for MODEL.CONVNEXTV2.WEIGHTS",
        "convert_weights.py convnextv2 --weights convnextv2_femto_1k_224_ema.pt --output femto.pth",
    )
    command.add_argument("--weights", required=True, help="file of the ConvNeXt V2 authors")
    command.add_argument("--name", help="such as convnextv2_femto; default: found from the file")
    return parser.parse_args()


if __name__ == "__main__":
    with exit_on_error():
        arguments = parse_args()
        print(arguments.run(arguments))
