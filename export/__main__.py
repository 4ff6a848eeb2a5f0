"""The entry point of the command `kbn`, which says what to install where the command's own packages are missing."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command line."""
    try:
        from .cli import main as run
    except ModuleNotFoundError as missing:
        message = (
            f"Error: the command kbn needs {missing.name}, which the layer alone does not: pip install 'kbn[export]'"
        )
        print(message, file=sys.stderr)
        sys.exit(2)
    run()


if __name__ == "__main__":
    main()
