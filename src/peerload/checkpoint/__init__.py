"""Checkpoints: the files of a model repository, scanned at a source and put together again at a target.

`scan` reads a folder into a `Checkpoint`, `map_files` gives its bytes to serve; `Staging` fills a folder from one.
"""

from __future__ import annotations

from peerload.checkpoint.folder import Scan, Skipped, Stamp, map_files, scan
from peerload.checkpoint.hashing import Progress
from peerload.checkpoint.model import PIECE_BYTES, Checkpoint, CheckpointFile, Part, digest, pieces
from peerload.checkpoint.staging import Staging

__all__ = [
    "PIECE_BYTES",
    "Checkpoint",
    "CheckpointFile",
    "Part",
    "Progress",
    "Scan",
    "Skipped",
    "Staging",
    "Stamp",
    "digest",
    "map_files",
    "pieces",
    "scan",
]
