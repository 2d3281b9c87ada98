#!/usr/bin/env python
r"""Train or evaluate RAMSES.

Examples:
    python tools/train_net.py --config-file configs/ramses_femto.yaml --num-gpus 4 \
        DATASETS.TRAIN "('ramses://data/split.json#train',)" DATASETS.TEST "('ramses://data/split.json#valid',)"
    python tools/train_net.py --config-file output/ramses_femto/config.yaml --resume
    python tools/train_net.py --config-file output/ramses_femto/config.yaml --eval-only \
        MODEL.WEIGHTS output/ramses_femto/model_best.pth OUTPUT_DIR output/evaluation

Two processes that share each batch, on a machine without CUDA:
    python tools/train_net.py --config-file configs/ramses_femto.yaml --num-gpus 0 --num-processes 2

Two machines with four GPUs each. Start both at the same time; --dist-url names machine 0:
    python tools/train_net.py --config-file configs/ramses_femto.yaml --num-gpus 4 \
        --num-machines 2 --machine-rank 0 --dist-url tcp://192.168.0.10:29500    # and --machine-rank 1 on the other

SOLVER.IMS_PER_BATCH counts the images of all processes together. Ctrl-C, a kill or a power cut cost the steps since
the last checkpoint (SOLVER.CHECKPOINT_PERIOD); --resume continues from it.
"""

from __future__ import annotations

import argparse

from ramses_d2.checkpoint.load import load_weights
from ramses_d2.engine import setup
from ramses_d2.engine.launch import argument_parser, end_on_signal, launch
from ramses_d2.engine.setup import prepare
from ramses_d2.engine.trainer import RamsesTrainer
from ramses_d2.errors import RamsesError, exit_on_error


def main(args: argparse.Namespace) -> dict[str, dict[str, float]] | None:
    """Run on one process."""
    cfg = setup(args)
    if args.eval_only:
        model = RamsesTrainer.build_model(cfg)
        load_weights(model, cfg.MODEL.WEIGHTS)
        return RamsesTrainer.test(cfg, model)
    trainer = RamsesTrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


if __name__ == "__main__":
    args = argument_parser(epilog=__doc__).parse_args()
    with exit_on_error(), end_on_signal():
        if not args.config_file:
            raise RamsesError("--config-file is missing, for example --config-file configs/ramses_femto.yaml")
        launch(main, args, prepare)
