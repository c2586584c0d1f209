"""The header of a safetensors file, read strictly.

The format (https://github.com/huggingface/safetensors): eight bytes, little-endian, give the length of a JSON object;
it maps each tensor's name to its dtype, shape and the range of its bytes after the header, and may map
`__metadata__` to an object of strings. The ranges tile the rest of the file: no hole, no overlap, nothing behind.

The grammar has a fixed depth, so it is read directly from the bytes rather than by a JSON parser: what does not belong
there is refused at its first byte, no nesting is followed, and memory stays in proportion to what was accepted.

Refused although some readers let it pass: repeated keys, which the format forbids, unknown keys beside the three
of a tensor, and a header that does not begin with its brace.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Final, NoReturn

from peerload.checkpoint.dtypes import DTYPES
from peerload.errors import InvalidCheckpoint

__all__ = [
    "LENGTH_BYTES",
    "MAX_HEADER_BYTES",
    "MAX_METADATA_ENTRIES",
    "MAX_RANK",
    "MAX_TENSORS",
    "Header",
    "Tensor",
    "header_size",
    "parse_header",
]

LENGTH_BYTES: Final = 8
MAX_HEADER_BYTES: Final = 100_000_000
"""The format's own limit on the JSON part."""
MAX_TENSORS: Final = 500_000
"""Tensors in one file; the largest models have some hundred thousand in all."""
MAX_METADATA_ENTRIES: Final = 100_000
MAX_RANK: Final = 256

_U64: Final = 2**64 - 1
_STRING: Final = re.compile(rb'"(?:[^"\\\x00-\x1f]++|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+"')
_WS: Final = rb"[ \t\n\r]*+"
_SPACE: Final = re.compile(_WS)
_INTEGER: Final = rb"(?:0|[1-9][0-9]{0,19}+)"
_LIST: Final = rb"\[%b(?:%b(?:%b,%b%b){0,255}+)?%b\]" % (_WS, _INTEGER, _WS, _WS, _INTEGER, _WS)
_NUMBERS: Final = re.compile(_LIST)
# What every known writer makes of a tensor, read in one step; anything else takes the long way.
_USUAL: Final = re.compile(
    _WS.join([rb"", rb"\{", rb'"dtype"', rb":", rb'"([A-Z0-9_]++)"', rb",", rb'"shape"', rb":", rb"(%b)", rb","])
    % _LIST
    + _WS.join([rb"", rb'"data_offsets"', rb":", rb"(%b)", rb"\}"]) % _LIST
)


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a file: `offset` and `size` in bytes, counted from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Header:
    """A checked header: `size` in bytes with its length prefix, and the tensors by (offset, size, name)."""

    size: int
    tensors: tuple[Tensor, ...]
    metadata: dict[str, str]


def header_size(
    prefix: bytes | memoryview, file_size: int, path: str, *, max_header_bytes: int = MAX_HEADER_BYTES
) -> int:
    """The header's bytes, its length prefix included, from the file's first eight bytes.

    Raises `InvalidCheckpoint` naming `path` if the file is too short for it, or it is above `max_header_bytes`.
    """
    if file_size < LENGTH_BYTES or len(prefix) < LENGTH_BYTES:
        raise InvalidCheckpoint(path, f"a safetensors file has at least {LENGTH_BYTES} bytes, this one {file_size}")
    if bytes(prefix[:LENGTH_BYTES]) == b"version ":
        raise InvalidCheckpoint(path, "this is a Git LFS pointer, not the file itself: run `git lfs pull`")
    length = int.from_bytes(prefix[:LENGTH_BYTES], "little")
    if length > max_header_bytes:
        raise InvalidCheckpoint(path, f"the header says it has {length} bytes; the limit is {max_header_bytes}")
    if LENGTH_BYTES + length > file_size:
        raise InvalidCheckpoint(path, f"the header says it has {length} bytes, and the file has only {file_size}")
    return LENGTH_BYTES + length


def parse_header(
    data: bytes | memoryview, file_size: int, path: str, *, max_header_bytes: int = MAX_HEADER_BYTES
) -> Header:
    """Read and check a header.

    `data` begins with the file's first byte and holds at least the header; `file_size` is the whole file's, in bytes,
    and `path` names it in errors. Raises `InvalidCheckpoint` for everything that the format does not allow.
    """
    size = header_size(data, file_size, path, max_header_bytes=max_header_bytes)
    if len(data) < size:
        raise InvalidCheckpoint(path, f"the header is cut off after {len(data)} of {size} bytes")
    text = bytes(data[LENGTH_BYTES:size])
    tensors, metadata = _Parser(text, path, size, file_size).document()
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.size, tensor.name))
    end = size
    for tensor in tensors:
        if tensor.offset != end:
            kind = "overlaps the one before it" if tensor.offset < end else "leaves a hole before it"
            raise InvalidCheckpoint(path, f"tensor {tensor.name!r} at {tensor.offset - size} {kind}")
        end += tensor.size
    if end != file_size:
        raise InvalidCheckpoint(path, f"the tensors end at byte {end}, and the file has {file_size}")
    return Header(size, tuple(tensors), metadata)


class _Parser:
    """One walk over the header's bytes. Strings are kept only once they are known to belong."""

    def __init__(self, text: bytes, path: str, base: int, file_size: int) -> None:
        self._text = text
        self._path = path
        self._base = base
        self._room = file_size - base
        self._at = 0

    def document(self) -> tuple[list[Tensor], dict[str, str]]:
        if not self._text.startswith(b"{"):
            self._fail("expected '{'")
        tensors: list[Tensor] = []
        names: set[str] = set()
        metadata: dict[str, str] = {}
        more = self._open()
        while more:
            name = self._key()
            if name in names:
                self._fail(f"the key {_shown(name)} is there twice")
            names.add(name)
            if name == "__metadata__":
                metadata = self._metadata()
            elif len(tensors) >= MAX_TENSORS:
                self._fail(f"more than {MAX_TENSORS} tensors in one file")
            else:
                tensors.append(self._tensor(name))
            more = self._next()
        if self._skip() != len(self._text):
            self._fail("something follows the closing '}'")
        return tensors, metadata

    def _metadata(self) -> dict[str, str]:
        entries: dict[str, str] = {}
        more = self._open()
        while more:
            key = self._key()
            if key in entries:
                self._fail(f"the metadata key {_shown(key)} is there twice")
            if len(entries) >= MAX_METADATA_ENTRIES:
                self._fail(f"more than {MAX_METADATA_ENTRIES} metadata entries")
            entries[key] = self._string("metadata must map strings to strings")
            more = self._next()
        return entries

    def _tensor(self, name: str) -> Tensor:
        usual = _USUAL.match(self._text, self._at)
        if usual is not None:
            self._at = usual.end()
            return self._checked(name, usual[1].decode(), _integers(usual[2]), _integers(usual[3]))
        dtype: str | None = None
        shape: tuple[int, ...] | None = None
        offsets: tuple[int, ...] | None = None
        more = self._open()
        while more:
            key = self._key()
            if key == "dtype" and dtype is None:
                dtype = self._string(f"tensor {_shown(name)}: the dtype must be a string")
            elif key == "shape" and shape is None:
                shape = self._numbers(f"tensor {_shown(name)}: the shape must be at most {MAX_RANK} integers")
            elif key == "data_offsets" and offsets is None:
                offsets = self._numbers(f"tensor {_shown(name)}: data_offsets must be two integers")
            elif key in ("dtype", "shape", "data_offsets"):
                self._fail(f"tensor {_shown(name)}: {key} is there twice")
            else:
                self._fail(f"tensor {_shown(name)}: unknown key {_shown(key)}")
            more = self._next()
        if dtype is None or shape is None or offsets is None:
            self._fail(f"tensor {_shown(name)} lacks its dtype, shape or data_offsets")
        return self._checked(name, dtype, shape, offsets)

    def _checked(self, name: str, dtype: str, shape: tuple[int, ...], offsets: tuple[int, ...]) -> Tensor:
        if dtype not in DTYPES:
            self._fail(f"tensor {_shown(name)}: unknown dtype {_shown(dtype)}")
        if len(offsets) != 2 or offsets[0] > offsets[1]:
            self._fail(f"tensor {_shown(name)}: data_offsets must be a start and an end")
        begin, end = offsets
        if end > self._room:
            self._fail(f"tensor {_shown(name)} ends at {end}, and the file has {self._room} bytes after its header")
        if any(dimension > _U64 for dimension in shape):
            self._fail(f"tensor {_shown(name)}: a dimension is larger than 64 bits can count")
        bits = 1
        for dimension in (*shape, DTYPES[dtype].bits):
            bits *= dimension
            if bits > _U64:
                self._fail(f"tensor {_shown(name)}: the shape is larger than 64 bits can count")
        if bits % 8:
            self._fail(f"tensor {_shown(name)}: {dtype} elements do not fill whole bytes")
        if bits // 8 != end - begin:
            self._fail(f"tensor {_shown(name)}: dtype and shape make {bits // 8} bytes, data_offsets {end - begin}")
        return Tensor(name, dtype, shape, self._base + begin, end - begin)

    # Tokens. Each leaves the position behind what it read.

    def _skip(self) -> int:
        match = _SPACE.match(self._text, self._at)
        self._at = match.end() if match else self._at
        return self._at

    def _take(self, token: bytes) -> None:
        at = self._skip()
        if not self._text.startswith(token, at):
            self._fail(f"expected {token.decode()!r}")
        self._at = at + 1

    def _open(self) -> bool:
        """Enter an object; False if it is empty (and left again)."""
        self._take(b"{")
        if self._text.startswith(b"}", self._skip()):
            self._at += 1
            return False
        return True

    def _next(self) -> bool:
        """After a member: True if another follows."""
        if self._text.startswith(b",", self._skip()):
            self._at += 1
            return True
        self._take(b"}")
        return False

    def _key(self) -> str:
        key = self._string("expected a key")
        self._take(b":")
        return key

    def _string(self, otherwise: str) -> str:
        match = _STRING.match(self._text, self._skip())
        if match is None:
            self._fail(otherwise)
        token = match.group()
        try:
            value = token[1:-1].decode()
            if "\\" in value:
                value = str(json.loads(token.decode()))
                value.encode()  # an escape may have made half of a surrogate pair
        except UnicodeError:
            self._fail("a string is not valid Unicode")
        self._at = match.end()
        return value

    def _numbers(self, otherwise: str) -> tuple[int, ...]:
        match = _NUMBERS.match(self._text, self._skip())
        if match is None:
            self._fail(otherwise)
        self._at = match.end()
        return _integers(match.group())

    def _fail(self, message: str) -> NoReturn:
        raise InvalidCheckpoint(self._path, f"bad safetensors header: {message} (at byte {self._at} of its JSON)")


def _integers(text: bytes) -> tuple[int, ...]:
    """The numbers of a checked list; `int` takes the space around them."""
    inner = text[1:-1]
    return tuple(map(int, inner.split(b","))) if inner.strip() else ()


def _shown(name: str) -> str:
    return repr(name) if len(name) <= 200 else repr(name[:200]) + "…"
