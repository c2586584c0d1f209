"""The demo's verdict on files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from peerload.demo.compare import compare_files


def folder(root: Path, files: dict[str, bytes]) -> Path:
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return root


def test_equal_copies_differ_nowhere(tmp_path: Path) -> None:
    files = {"config.json": b"{}", "sub/empty": b"", "model.safetensors": bytes(range(256)) * 100}
    original = folder(tmp_path / "original", files)
    copies = {"one": folder(tmp_path / "one", files), "two": folder(tmp_path / "two", files)}
    checks = compare_files(original, copies)
    assert [check.path for check in checks] == sorted(files)
    assert all(not check.differing for check in checks)
    assert {check.path: check.sha256 for check in checks} == {
        path: hashlib.sha256(content).hexdigest() for path, content in files.items()
    }
    assert sum(check.size for check in checks) == sum(map(len, files.values()))


def test_every_kind_of_difference_is_found_and_named(tmp_path: Path) -> None:
    original = folder(tmp_path / "original", {"same": b"1", "changed": b"2", "missing": b"3"})
    copy = folder(tmp_path / "copy", {"same": b"1", "changed": b"X", "more": b"4"})
    good = folder(tmp_path / "good", {"same": b"1", "changed": b"2", "missing": b"3"})
    checks = {check.path: check.differing for check in compare_files(original, {"copy": copy, "good": good})}
    assert checks == {"same": (), "changed": ("copy",), "missing": ("copy",), "more": ("copy",)}
