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

from ramses_d2.checkpoint.pretrained import convert_convnextv2
from ramses_d2.checkpoint.ramses2_weights import CLASSES_FILE, export_ramses2, import_config, import_ramses2
from ramses_d2.errors import exit_on_error


def ramses2(args: argparse.Namespace) -> str:
    """config.json and classes.json are looked for beside the weights."""
    config = args.config or str(Path(args.weights).with_name("config.json"))
    classes = args.classes or str(Path(config).with_name(CLASSES_FILE))
    wrote = import_ramses2(args.weights, config, classes, args.output, force=args.force)
    files = f"--config-file {Path(args.output, 'config.yaml')} --weights {Path(args.output, 'model.pth')}"
    return f"{wrote}\nnext: python tools/predict.py {files} --input IMAGE --resolution PX_PER_MM --output predictions"


def config(args: argparse.Namespace) -> str:
    """With the class names, if there are any."""
    beside = Path(args.config).with_name(CLASSES_FILE)
    classes = args.classes or (str(beside) if beside.is_file() else None)
    return import_config(args.config, classes, args.output, force=args.force)


# Name, function, what it does, example, and options with their help; those with a default are not required
COMMANDS = (
    (
        "ramses2",
        ramses2,
        "RAMSES2 network -> folder with model.pth, config.yaml and classes.json",
        "--weights checkpoints/2048x3072/best-val-loss.pt --output output/published",
        {
            "--weights": "best-val-loss.pt, or a Lightning .ckpt",
            "--config": "default: config.json beside the weights",
            "--classes": "{name: id}; default: classes.json beside the config",
        },
    ),
    (
        "config",
        config,
        "RAMSES2 config.json -> YAML, without weights",
        "--config config.json --output configs/mine.yaml",
        {"--config": "config.json", "--classes": "{name: id}; default: classes.json beside the config, if any"},
    ),
    (
        "export-ramses2",
        lambda args: export_ramses2(args.config, args.weights, args.output, force=args.force),
        "our network -> folder with best-val-loss.pt, config.json and classes.json that RAMSES2 loads",
        "--config output/demo/config.yaml --weights output/demo/model_final.pth --output output/for_ramses2",
        {"--config": "our config.yaml", "--weights": "our checkpoint, such as model_final.pth"},
    ),
    (
        "convnextv2",
        lambda args: convert_convnextv2(args.weights, args.output, name=args.name, force=args.force),
        "official ConvNeXt V2 file (fine-tuned or FCMAE) -> checkpoint of the backbone for MODEL.CONVNEXTV2.WEIGHTS",
        "--weights convnextv2_femto_1k_224_ema.pt --output femto.pth",
        {
            "--weights": "file of the ConvNeXt V2 authors",
            "--name": "such as convnextv2_femto; default: found from the file",
        },
    ),
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, run, text, example, options in COMMANDS:
        epilog = f"example: convert_weights.py {name} {example}"
        command = commands.add_parser(name, help=text, description=text, epilog=epilog)
        command.set_defaults(run=run)
        command.add_argument("--output", required=True, help="file or folder to make")
        command.add_argument("--force", action="store_true", help="replace an earlier conversion")
        for option, meaning in options.items():
            command.add_argument(option, required="default: " not in meaning, help=meaning)
    return parser.parse_args()


if __name__ == "__main__":
    with exit_on_error():
        arguments = parse_args()
        print(arguments.run(arguments))
