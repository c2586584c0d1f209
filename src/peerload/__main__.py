"""The program `peerload`, which `python -m peerload` is too."""

from __future__ import annotations

import sys

__all__ = ["main"]

_INTERRUPTED = 130


def main() -> None:
    """Run the command line. Ctrl-C while it is still being imported ends it as it ends any command: without a traceback."""
    try:
        from peerload.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)


if __name__ == "__main__":
    main()
