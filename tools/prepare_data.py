"""Make, check, weigh, split, convert and look at data sets.

Example:
    python tools/prepare_data.py synth --output datasets/demo
"""

from __future__ import annotations

import argparse
from typing import NoReturn

from data_commands import check, convert, masses, preview, split, synth

from ramses_d2.errors import exit_on_error

COMMANDS = (check, convert, masses, preview, split, synth)


class OneLineParser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2 and ``message``."""
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def main(argv: list[str] | None = None) -> None:
    """Run one subcommand."""
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(subparsers)
    args = parser.parse_args(argv)
    with exit_on_error():
        args.run(args)


if __name__ == "__main__":
    main()
