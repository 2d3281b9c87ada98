#!/usr/bin/env python
r"""Train or evaluate RAMSES.

Examples:
    python tools/train_net.py --config-file configs/ramses_femto.yaml --num-gpus 4 \
        DATASETS.TRAIN "('ramses://data/split.json#train',)" DATASETS.TEST "('ramses://data/split.json#valid',)"
    python tools/train_net.py --config-file output/ramses_femto/config.yaml --resume
    python tools/train_net.py --config-file output/ramses_femto/config.yaml --eval-only \
        MODEL.WEIGHTS output/ramses_femto/model_best.pth OUTPUT_DIR output/evaluation
"""

from __future__ import annotations

import argparse

from detectron2.engine import default_argument_parser, launch

from ramses_d2.checkpoint import load_weights
from ramses_d2.engine import RamsesTrainer, prepare, setup
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
    parser = default_argument_parser(epilog=__doc__)
    args = parser.parse_args()
    with exit_on_error():
        if not args.config_file:
            raise RamsesError("--config-file is missing, for example --config-file configs/ramses_femto.yaml")
        if args.num_gpus > 1:
            prepare(args)  # here an error is one line, in a launched process it is a traceback
        launch(
            main,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args,),
        )
