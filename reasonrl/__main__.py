"""The console script, and `python -m reasonrl`."""

import sys


def main() -> None:
    """Runs the command line. `cli` reports an interruption; until it is imported this does."""
    try:
        from reasonrl import cli

        cli.main()
    except KeyboardInterrupt:
        sys.stderr.write("reasonrl: interrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
