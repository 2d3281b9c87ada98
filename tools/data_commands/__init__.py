"""The subcommands of tools/prepare_data.py: command lines only, the work is in ramses_d2/data."""
