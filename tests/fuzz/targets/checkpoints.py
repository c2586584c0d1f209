"""Files of checkpoints and artifacts: headers, folders, archives, paths."""

from __future__ import annotations

import io
import json
import os
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from peerload.checkpoint.folder import map_files, scan
from peerload.checkpoint.names import check_path
from peerload.checkpoint.safetensors import header_size, parse_header
from peerload.client.stock.archive import members
from peerload.errors import InvalidCheckpoint, LimitExceeded
from tests.fuzz.mutation import record, records
from tests.fuzz.target import Target

__all__ = ["TARGETS"]


def _safetensors(header: bytes, data: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def run_safetensors(data: bytes) -> None:
    """A file's header as JSON text, and how many bytes follow it; or a whole file."""
    parts = records(data)
    files = [data]
    if parts is not None:
        files += [_safetensors(text, bytes(len(b"".join(rest)))) for text, *rest in parts]
    for file in files:
        with suppress(InvalidCheckpoint):
            header_size(file[:8], len(file), "a")
        with suppress(InvalidCheckpoint):
            header = parse_header(file, len(file), "a")
            end = header.size
            for tensor in header.tensors:
                assert tensor.offset == end
                end += tensor.size
            assert end == len(file)


def seed_safetensors() -> Iterator[bytes]:
    one = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    other = {"dtype": "BF16", "shape": [], "data_offsets": [8, 10]}
    for tree in ({}, {"a": one}, {"__metadata__": {"format": "pt"}, "a": one, "b\u00e9": other}):
        text = json.dumps(tree).encode()
        size = {0: 0, 1: 8, 3: 10}[len(tree)]
        yield record(text, bytes(size))
        yield _safetensors(text, bytes(size))
    # The long way: members in another order, and space.
    yield record(b'{ "a" : {"shape":[ 2 ],\n"data_offsets":[0, 8], "dtype":"F32" } } '.rstrip(), bytes(8))


def run_folders(data: bytes) -> None:
    """Records of a path and a content: a folder of files."""
    with tempfile.TemporaryDirectory(dir=_place()) as temporary:
        root = Path(temporary)
        for path, *content in (records(data) or ())[:20]:
            # What no folder can have is not written; the rest is for `scan` to judge.
            parts = path.split(b"/")
            if b"\0" in path or any(part in (b"", b".", b"..") or len(part) > 255 for part in parts) or len(parts) > 40:
                continue
            with suppress(OSError):
                where = root.joinpath(*map(os.fsdecode, parts))
                where.parent.mkdir(parents=True, exist_ok=True)
                where.write_bytes(b"".join(content))
        with suppress(InvalidCheckpoint):
            found = scan(root)
            found.checkpoint.validate()
            views = map_files(root, found.checkpoint, stamps=found.stamps)
            assert [view.nbytes for view in views] == [file.size for file in found.checkpoint.files]


def seed_folders() -> Iterator[bytes]:
    weights = _safetensors(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(8))
    yield record(b"config.json", b"{}") + record(b"a/model.safetensors", weights)
    yield record(b"model.safetensors", weights) + record(b"MODEL.safetensors", weights)
    yield record("é.txt".encode(), b"x") + record("e\u0301.txt".encode(), b"x") + record(b"run.py", b"x")
    yield record(b".git/hooks/x", b"x") + record(b"empty", b"") + record(b"\xff", b"x")


@cache
def _place() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def run_archives(data: bytes) -> None:
    """A tar archive."""
    with suppress(InvalidCheckpoint, LimitExceeded):
        for member in members(io.BytesIO(data), "archive"):
            check_path(member.path)
            assert 0 <= member.offset <= member.offset + member.size <= len(data)


def seed_archives() -> Iterator[bytes]:
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=form) as archive:
            folder = tarfile.TarInfo("d")
            folder.type = tarfile.DIRTYPE
            archive.addfile(folder)
            for name in ("d/a", "d/" + "n" * 90 + "é"):
                info = tarfile.TarInfo(name)
                info.size = 5
                archive.addfile(info, io.BytesIO(b"12345"))
        # Without most of the zeros at the end.
        yield out.getvalue()[:6144]


def run_paths(data: bytes) -> None:
    """A path."""
    text = data.decode(errors="surrogateescape")
    with suppress(InvalidCheckpoint):
        check_path(text)
        assert not text.startswith("/")
        assert ".." not in text.split("/")
        assert "\\" not in text
        text.encode()


def seed_paths() -> Iterator[bytes]:
    yield from (b"a/b.json", b"../x", b"a//b", "é/ſ".encode(), b".GIT/x", b"a" * 256, b"nul", b"a/" * 31 + b"a")


TARGETS = (
    Target("safetensors", run_safetensors, seed_safetensors),
    Target("folders", run_folders, seed_folders, mutations=100),
    Target("archives", run_archives, seed_archives),
    Target("paths", run_paths, seed_paths),
)
