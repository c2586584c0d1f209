from __future__ import annotations

import json
import tracemalloc
from typing import Any

import numpy as np
import pytest
import safetensors
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from peerload.checkpoint.dtypes import DTYPES, itemsize_bits
from peerload.checkpoint.safetensors import Header, parse_header
from peerload.errors import InvalidCheckpoint
from tests.support.checkpoints import safetensors_file, with_header

PATH = "model.safetensors"


def parse(file: bytes) -> Header:
    return parse_header(file, len(file), PATH)


def one(entry: str, data: bytes = b"") -> bytes:
    return with_header(b'{"a":' + entry.encode() + b"}", data)


def entry(dtype: str = '"U8"', shape: str = "[1]", offsets: str = "[0,1]") -> str:
    return f'{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}}}'


def reference_accepts(file: bytes) -> bool:
    try:
        safetensors.deserialize(file)
    except safetensors.SafetensorError:
        return False
    return True


# What the format allows.


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@settings(deadline=None)
@given(
    st.dictionaries(
        TEXT.filter(lambda name: name != "__metadata__"),
        st.tuples(
            st.sampled_from(["float32", "uint8", "int64", "bool", "float16"]), st.lists(st.integers(0, 3), max_size=3)
        ),
        max_size=6,
    ),
    # Empty metadata is left out: for it, version 0.8 of the package writes a header that it refuses itself.
    st.none() | st.dictionaries(TEXT, TEXT, min_size=1, max_size=3),
)
def test_reads_what_the_formats_own_package_writes(
    tensors: dict[str, tuple[str, list[int]]], metadata: dict[str, str] | None
) -> None:
    arrays = {name: np.ones(shape, dtype) for name, (dtype, shape) in tensors.items()}
    file = save(arrays, metadata)
    header = parse(file)
    assert header.metadata == (metadata or {})
    assert {tensor.name for tensor in header.tensors} == set(arrays)
    for tensor in header.tensors:
        assert tensor.shape == arrays[tensor.name].shape
        assert file[tensor.offset : tensor.offset + tensor.size] == arrays[tensor.name].tobytes()
    assert sum(tensor.size for tensor in header.tensors) + header.size == len(file)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(dtype: str) -> None:
    file = safetensors_file({"a": (dtype, [2, 4]), "b": (dtype, []) if itemsize_bits(dtype) >= 8 else (dtype, [4])})
    assert reference_accepts(file)
    header = parse(file)
    assert [tensor.dtype for tensor in header.tensors] == [dtype, dtype]
    assert header.tensors[0].size == itemsize_bits(dtype)


@pytest.mark.parametrize(
    "file",
    [
        with_header(b"{}"),
        with_header(b"{}   "),
        with_header(b"{ \t\n}\n"),
        with_header(b'{"__metadata__":{}}'),
        with_header(b'{"__metadata__":{"a":"b", "c" : "\\u00e9\\n\\"\\ud83d\\ude00"}}'),
        one(entry(shape="[0]", offsets="[0,0]")),
        one(entry(shape="[0,9223372036854775808,4]", offsets="[0,0]")),
        one(' { "data_offsets" : [ 0 , 2 ] , "shape" : [ ] , "dtype" : "F16" } ', b"12"),
        one('{"\\u0064type":"U8","shape":[1],"data_offsets":[0,1]}', b"1"),
        one(entry('"F4"', "[3,2]", "[0,3]"), b"123"),
        with_header(b'{"":' + entry(shape="[0]", offsets="[0,0]").encode() + b"}"),
        with_header(
            b'{"b":%s,"z":%s,"a":%s}'
            % (entry(offsets="[1,2]").encode(), entry(shape="[0]", offsets="[1,1]").encode(), entry().encode()),
            b"12",
        ),
    ],
)
def test_unusual_and_right(file: bytes) -> None:
    assert reference_accepts(file)
    header = parse(file)
    end = header.size
    for tensor in header.tensors:
        assert tensor.offset == end
        end += tensor.size
    assert end == len(file)


# What it does not.


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (b"", "at least 8 bytes"),
        (b"\2\0\0\0", "at least 8 bytes"),
        (b"\xff" * 8 + b"{}", "the limit is 100000000"),
        ((100_000_001).to_bytes(8, "little") + b"{}", "the limit is 100000000"),
        ((3).to_bytes(8, "little") + b"{}", "has only 10"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (with_header(b""), "expected '{'"),
        (with_header(b"[]"), "expected '{'"),
        (with_header(b"{}x"), "something follows"),
        (with_header(b"{},"), "something follows"),
        (with_header(b"{"), "expected a key"),
        (with_header(b"{,}"), "expected a key"),
        (with_header(b"{}", b"1"), "end at byte 10, and the file has 11"),
        (with_header(b'{"\xff":1}'), "not valid Unicode"),
        (with_header(b'{"a":1}'), "expected '{'"),
        (with_header(b'{"a":null}'), "expected '{'"),
        (with_header(b'{"a"}'), "expected ':'"),
        (one("{}"), "lacks its"),
        (one('{"dtype":"U8","shape":[1]}'), "lacks its"),
        (one(entry('"X9"')), "unknown dtype"),
        (one(entry("1")), "dtype must be a string"),
        (one(entry(shape="1")), "shape must be"),
        (one(entry(shape="[1,]")), "shape must be"),
        (one(entry(shape="[-1]")), "shape must be"),
        (one(entry(shape="[true]")), "shape must be"),
        (one(entry(shape="[1.0]")), "shape must be"),
        (one(entry(shape="[1e3]")), "shape must be"),
        (one(entry(shape="[01]")), "shape must be"),
        (one(entry(shape="[NaN]")), "shape must be"),
        (one(entry(shape='["1"]')), "shape must be"),
        (one(entry(shape="[18446744073709551616]"), b"1"), "64 bits"),
        (one(entry(shape="[" + "9" * 5000 + "]")), "shape must be"),
        (one(entry(shape="[" + ",".join("1" * 257) + "]")), "at most 256"),
        (one(entry(offsets="[0]"), b"1"), "a start and an end"),
        (one(entry(offsets="[0,1,1]"), b"1"), "a start and an end"),
        (one(entry(offsets="[1,0]"), b"1"), "a start and an end"),
        (one(entry(offsets="[0,2]"), b"12"), "data_offsets 2"),
        (one(entry(shape="[2]"), b"1"), "make 2 bytes"),
        (one(entry()), "has 0 bytes after its header"),
        (one(entry(shape="[0]", offsets="[5,5]"), b""), "has 0 bytes after"),
        (one(entry(offsets="[1,2]"), b"12"), "leaves a hole"),
        (one(entry(shape="[9223372036854775808,4,0]", offsets="[0,0]")), "larger than 64 bits"),
        (one(entry('"F64"', "[2305843009213693952]", "[0,0]")), "larger than 64 bits"),
        (one(entry('"F4"', "[3]", "[0,2]"), b"12"), "whole bytes"),
        (one('{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1}', b"1"), "unknown key 'x'"),
        (one('{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}', b"1"), "dtype is there twice"),
        (with_header(b'{"a":%s,"a":%s}' % ((entry(shape="[0]", offsets="[0,0]").encode(),) * 2)), "'a' is there twice"),
        (with_header(b'{"a":%s,"b":%s}' % ((entry().encode(),) * 2), b"1"), "overlaps"),
        (with_header(b'{"__metadata__":{"a":1}}'), "strings to strings"),
        (with_header(b'{"__metadata__":{"a":{}}}'), "strings to strings"),
        (with_header(b'{"__metadata__":[]}'), "expected '{'"),
        (with_header(b'{"__metadata__":{"a":"b","a":"c"}}'), "metadata key 'a' is there twice"),
        (with_header(b'{"__metadata__":{},"__metadata__":{}}'), "'__metadata__' is there twice"),
        (with_header(b'{"\\ud800":1}'), "not valid Unicode"),
        (with_header(b'{"a\n":1}'), "expected a key"),
        (with_header(b'{"a\\x":1}'), "expected a key"),
        (with_header(b"{'a':1}"), "expected a key"),
        (with_header(b'{"a":' * 100_000), "expected a key|unknown key"),
        (with_header(b"[" * 1_000_000), "expected '{'"),
        (one(entry(shape="[" * 1_000_000)), "shape must be"),
        (with_header(b"\xef\xbb\xbf{}"), "expected '{'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_headers_are_refused_with_a_reason(file: bytes, reason: str) -> None:
    with pytest.raises(InvalidCheckpoint, match=reason) as refusal:
        parse(file)
    assert refusal.value.path == PATH
    assert len(str(refusal.value)) < 1000


def test_the_limit_can_be_lowered_and_a_cut_header_is_told() -> None:
    file = safetensors_file({"a": ("F32", [4])})
    with pytest.raises(InvalidCheckpoint, match="the limit is 10"):
        parse_header(file, len(file), PATH, max_header_bytes=10)
    with pytest.raises(InvalidCheckpoint, match="cut off after 20"):
        parse_header(file[:20], len(file), PATH)


HOSTILE = {
    "nested arrays": b'{"a":' + b"[" * 99_999_000,
    "nested objects": b'{"a":' * 19_999_000,
    "one long string": b'{"' + b"x" * 99_999_000 + b'":1}',
    "one long escaped string": b'{"' + b"\\n" * 49_999_000 + b'":1}',
    "never closed": b'{"' + b"\\u0041" * 16_000_000,
    "a long shape": b'{"a":{"dtype":"U8","shape":[' + b"1," * 49_000_000 + b"1]}}",
    "a long number": b'{"a":{"dtype":"U8","shape":[' + b"1" * 99_000_000 + b"]}}",
    "many metadata entries": b'{"__metadata__":{' + b",".join(b'"%d":""' % i for i in range(200_000)) + b"}}",
    "spaces": b"{" + b" " * 99_999_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hundred_megabytes_of_json_are_refused_in_bounded_memory(name: str) -> None:
    file = with_header(HOSTILE[name])
    tracemalloc.start()
    try:
        with pytest.raises(InvalidCheckpoint) as refusal:
            parse(file)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(str(refusal.value)) < 1000
    assert peak < 5 * len(file) + (64 << 20)


def test_more_tensors_than_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peerload.checkpoint.safetensors.MAX_TENSORS", 1000)
    entries = [b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % i for i in range(1001)]
    assert len(parse(with_header(b"{" + b",".join(entries[:-1]) + b"}")).tensors) == 1000
    with pytest.raises(InvalidCheckpoint, match="more than 1000 tensors"):
        parse(with_header(b"{" + b",".join(entries) + b"}"))


# Mutations of right files: never another exception, and agreement with the format's own package.


def strays(value: Any) -> bool:
    """Whether a header that the package reads leaves the ground that the format defines."""
    if not isinstance(value, dict):
        return True
    return any(
        not isinstance(fields, dict) or (name != "__metadata__" and set(fields) != {"dtype", "shape", "data_offsets"})
        for name, fields in value.items()
    )


class _Repeated(Exception):
    pass


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise _Repeated
    return dict(pairs)


BASE = safetensors_file({"a": ("F32", [2, 3]), "b": ("U8", [0]), "c": ("F4", [6])}, metadata={"k": "v"}, padding=2)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, len(BASE) - 1),
            st.integers(0, 3),
            st.sampled_from(
                [
                    b"",
                    b'"',
                    b"{",
                    b"}",
                    b"[",
                    b"]",
                    b",",
                    b":",
                    b"0",
                    b"9",
                    b"-",
                    b".",
                    b"e",
                    b" ",
                    b"\\",
                    b"\0",
                    b"\xff",
                    b"null",
                ]
            )
            | st.binary(max_size=3),
        ),
        min_size=1,
        max_size=3,
    ),
    st.booleans(),
)
@example([(8, 1, b"[")], True)
def test_mutated_headers(edits: list[tuple[int, int, bytes]], mend_length: bool) -> None:
    data = bytearray(BASE)
    for at, removed, added in edits:
        data[at : at + removed] = added
    if mend_length:
        length = len(data) - 8 - (len(BASE) - 8 - int.from_bytes(BASE[:8], "little"))
        data[:8] = max(0, length).to_bytes(8, "little")
    file = bytes(data)
    try:
        parse(file)
    except InvalidCheckpoint:
        accepted = False
    else:
        accepted = True
    if accepted:
        assert reference_accepts(file)
    elif reference_accepts(file):
        text = file[8 : 8 + int.from_bytes(file[:8], "little")]
        try:
            assert not text.startswith(b"{") or strays(json.loads(text, object_pairs_hook=_pairs))
        except _Repeated:
            pass


@given(st.binary(max_size=200))
def test_noise(noise: bytes) -> None:
    for file in (noise, with_header(noise), with_header(b'{"' + noise)):
        try:
            parse(file)
        except InvalidCheckpoint:
            continue
        assert reference_accepts(file)
