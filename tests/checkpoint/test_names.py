from __future__ import annotations

import os
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerload.checkpoint.names import check_path, check_paths, code_reason
from peerload.errors import InvalidCheckpoint


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "empty"),
        ("/etc/passwd", "absolute"),
        ("../up", r"'\.\.'"),
        ("a/../../up", r"'\.\.'"),
        ("./a", r"'\.'"),
        ("a//b", "''"),
        ("a/", "''"),
        ("a\\b", "backslash"),
        ("a\0b", "control"),
        ("a\nb", "control"),
        ("a\x7fb", "control"),
        ("a\u202eb", "invisible"),
        ("a\ud800", "invisible"),
        ("x" * 256, "longer than 255"),
        ("é" * 128, "longer than 255"),
        ("x/" * 1100 + "x", "longer than 2048"),
        ("x/" * 40 + "x", "deeper than 32"),
        (".git/hooks/post-checkout", "reserved"),
        (".GIT/config", "reserved"),
        ("a/.peerload/x", "reserved"),
        (".cache", "reserved"),
    ],
)
def test_unsafe_paths_are_refused_by_name(path: str, reason: str) -> None:
    with pytest.raises(InvalidCheckpoint, match=reason) as refusal:
        check_path(path)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("path", ["a", "a b/c.json", "..a/...", "日本語/重み.safetensors", ".gitattributes", "x" * 255])
def test_ordinary_paths_pass(path: str) -> None:
    check_paths([path])


@pytest.mark.parametrize(
    ("paths", "reason"),
    [
        (["a", "A"], "only in case"),
        (["dir/a", "Dir/b"], "only in case"),
        (["straße", "STRASSE"], "only in case"),
        ([unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")], "only in case or Unicode form"),
        (["a", "a/b"], "both a file and a folder"),
        (["a/b", "a"], "both a file and a folder"),
        (["a", "a"], "twice"),
    ],
)
def test_paths_that_fall_together_are_refused(paths: list[str], reason: str) -> None:
    with pytest.raises(InvalidCheckpoint, match=reason):
        check_paths(paths)


@pytest.mark.parametrize(
    "path",
    ["modeling_x.py", "A.PY", "x.so", "libx.so.1.2", "run.sh", "pytorch_model.bin", "a/b.pt", "x.pth.tar", "c.ckpt"],
)
def test_code_and_pickles_are_known_by_name(path: str) -> None:
    assert code_reason(path)


@pytest.mark.parametrize("path", ["model.safetensors", "config.json", "vocab.txt", "x.gguf", "so", "bin", "a.py.txt"])
def test_other_files_are_not_code(path: str) -> None:
    assert code_reason(path) == ""


@given(st.text(max_size=40))
def test_what_passes_stays_below_its_folder(path: str) -> None:
    try:
        check_path(path)
    except InvalidCheckpoint:
        return
    joined = os.path.normpath(os.path.join("/root", path))  # noqa: PTH118
    assert joined == "/root/" + path
