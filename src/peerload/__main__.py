"""`python -m peerload` is `peerload`."""

from __future__ import annotations

from peerload.cli import main

if __name__ == "__main__":
    main()
