"""Changes to valid input that leave most of it valid, so that what is wrong with it is found deep inside.

`mutated` looks at what it was given: a JSON document is changed as a tree, an encoded protobuf message field by field
(without its schema, and into what is nested), anything else byte by byte or word by word.
"""

from __future__ import annotations

import json
import random
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from peerload.wire.splice import varint

__all__ = ["mutated", "record", "records"]

_NUMBERS: Final = (
    *(0, 1, 2, 3, 7, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32),
    *(2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1),
)
_BYTES: Final = (
    *(
        b"",
        b"\0",
        b"\xff",
        b"\xed\xa0\x80",
        b"\xc3\xa9",
        b"/",
        b"..",
        b"a/../b",
        b"\n",
        b"\r\n",
        b"%",
        b"=",
        b",",
        b":",
    ),
    *(b"0", b"-1", b"1e999", b"NaN", b"9" * 30, b"9" * 400, b"x" * 300, b"[::1]:1", b"h:0", b"{}", b"[]", b"null"),
    *("é".encode() * 40, "İ".encode(), "\u2028".encode(), "٣".encode(), "²".encode(), "\U0001f600".encode()),
)
_JSON: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**53 + 1, 2**63, -(2**63) - 1, 10**30, 10**400, 0.5, -0.0, 1e308, "", "0"),
    *(
        "x" * 300,
        "\ud800",
        "\0",
        "é",
        "9" * 30,
        "9" * 5000,
        "²",
        "٣",
        "-1",
        "NaN",
        "READY",
        "STALE",
        [],
        {},
        [[]],
        {"": {}},
    ),
)
_DEEP: Final = 20_000
_MOST_LEVELS: Final = 8
_WORD: Final = re.compile(rb"[A-Za-z0-9.]+|[^A-Za-z0-9.]")
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True)
class _Field:
    number: int
    kind: int
    content: int | bytes


def mutated(data: bytes, rng: random.Random, most: int, others: Sequence[bytes] = ()) -> bytes:
    """`data` with one to a few changes, at most `most` bytes; parts of `others` may come into it."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
        data = _changed(data, rng, others, 0)
    return data[:most]


def record(*parts: bytes) -> bytes:
    """Some byte strings as one input: the fields 1, 2, … of a message."""
    return b"".join(varint(number << 3 | _LENGTH) + varint(len(part)) + part for number, part in enumerate(parts, 1))


def records(data: bytes) -> list[tuple[bytes, ...]] | None:
    """What `record` made, several of them one after the other; None for what it did not make. A record begins with field 1."""
    found: list[list[bytes]] = []
    for field in _fields(data) or ():
        if not isinstance(field.content, bytes):
            continue
        if field.number == 1 or not found:
            found.append([])
        found[-1].append(field.content)
    return [tuple(each) for each in found] or None


def _changed(data: bytes, rng: random.Random, others: Sequence[bytes], level: int) -> bytes:
    if rng.random() < 0.85 and level < _MOST_LEVELS:
        if data[:1] in (b"{", b"["):
            try:
                tree = json.loads(data)
            except (ValueError, RecursionError):
                pass
            else:
                return _changed_json(tree, rng)
        if data and (fields := _fields(data)):
            return _changed_fields(fields, rng, others, level)
    return rng.choice((_changed_bytes, _changed_bytes, _changed_words))(data, rng)


# Messages.


def _fields(data: bytes) -> list[_Field] | None:
    """The fields of an encoded message; None for what is none."""
    found: list[_Field] = []
    at, end = 0, len(data)

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value
            if shift > 63:
                raise IndexError

    try:
        while at < end:
            tag = number()
            kind, content = tag & 7, b""
            if not 0 < tag >> 3 < 2**20:
                return None
            if kind == _VARINT:
                found.append(_Field(tag >> 3, kind, number()))
                continue
            if kind not in (_FIXED64, _LENGTH, _FIXED32):
                return None
            size = number() if kind == _LENGTH else 8 if kind == _FIXED64 else 4
            content = data[at : at + size]
            at += size
            if at > end:
                return None
            found.append(_Field(tag >> 3, kind, content))
    except IndexError:
        return None
    return found


def _encoded(fields: Sequence[_Field]) -> bytes:
    out: list[bytes] = []
    for field in fields:
        out.append(varint(field.number << 3 | field.kind))
        if isinstance(field.content, int):
            out.append(varint(field.content))
        elif field.kind == _LENGTH:
            out += (varint(len(field.content)), field.content)
        else:
            out.append(field.content)
    return b"".join(out)


def _changed_fields(fields: list[_Field], rng: random.Random, others: Sequence[bytes], level: int) -> bytes:
    at = rng.randrange(len(fields))
    field = fields[at]
    choice = rng.random()
    if choice < 0.62:
        fields[at] = _Field(field.number, field.kind, _changed_content(field, rng, others, level))
    elif choice < 0.70:
        del fields[at]
    elif choice < 0.78:
        fields.insert(rng.randrange(len(fields) + 1), field)
    elif choice < 0.82:
        fields[at] = _Field(max(1, field.number + rng.choice((-2, -1, 1, 2, 18))), field.kind, field.content)
    elif choice < 0.88:
        fields[at] = _other_kind(field.number, rng)
    elif choice < 0.94 and others and (found := _fields(rng.choice(others))):
        fields.insert(at, rng.choice(found))
    elif choice < 0.97:
        rng.shuffle(fields)
    else:
        fields *= rng.choice((2, 8, 40))
    return _encoded(fields)


def _changed_content(field: _Field, rng: random.Random, others: Sequence[bytes], level: int) -> int | bytes:
    if isinstance(field.content, int):
        return _changed_number(field.content, rng)
    if field.kind != _LENGTH:
        floats = struct.pack(
            "<d" if field.kind == _FIXED64 else "<f", rng.choice((0.0, 0.5, -1.0, 1e30, float("nan"), float("inf")))
        )
        return rng.choice((floats, rng.randbytes(len(field.content))))
    if rng.random() < 0.2:
        return rng.choice(_BYTES)
    return _changed(field.content, rng, others, level + 1)


def _changed_number(number: int, rng: random.Random) -> int:
    return rng.choice((number + 1, number - 1, number ^ 1 << rng.randrange(64), rng.choice(_NUMBERS))) & 2**64 - 1


def _other_kind(number: int, rng: random.Random) -> _Field:
    kind = rng.choice((_VARINT, _FIXED64, _LENGTH, _FIXED32))
    if kind == _VARINT:
        return _Field(number, kind, rng.choice(_NUMBERS))
    return _Field(number, kind, rng.choice(_BYTES) if kind == _LENGTH else rng.randbytes(8 if kind == _FIXED64 else 4))


# JSON.


def _changed_json(tree: Any, rng: random.Random) -> bytes:
    holder: list[Any] = [tree]
    places: list[tuple[Any, Any]] = [(holder, 0)]
    for container, key in places:
        inside = container[key]
        if isinstance(inside, dict):
            places += [(inside, name) for name in inside]
        elif isinstance(inside, list):
            places += [(inside, index) for index in range(len(inside))]
    container, key = rng.choice(places)
    held = container[key]
    choice = rng.random()
    if choice < 0.3:
        container[key] = rng.choice(_JSON)
    elif choice < 0.5 and isinstance(held, int) and not isinstance(held, bool):
        container[key] = rng.choice((held + 1, held - 1, -held, held << 32, str(held), float(min(held, 2**60))))
    elif choice < 0.6 and isinstance(held, str):
        container[key] = _changed_bytes(held.encode(errors="replace"), rng).decode(errors="replace")
    elif choice < 0.7 and container is not holder:
        del container[key]
    elif choice < 0.8 and isinstance(container, dict):
        container[rng.choice(("", "x", "__metadata__", str(key) + " ", "\ud800"))] = held
    elif choice < 0.85:
        container[key] = [held]
    elif choice < 0.9 and len(places) > 1:
        other, name = rng.choice(places[1:])
        container[key] = (
            rng.choice(_JSON)
            if other is container or isinstance(held, (dict, list))
            else json.loads(_dumped(other[name]))
        )
    elif choice < 0.92:
        text = _dumped(holder[0])
        return text.replace("{", "[" * _DEEP, 1).encode(errors="surrogatepass")
    elif choice < 0.97 and isinstance(held, dict) and held:
        # A key that is there twice, which no tree has.
        text, again = _dumped(holder[0]), _dumped(rng.choice(list(held)))
        return text.replace("{", "{" + again + ":0,", 1).encode(errors="surrogatepass")
    else:
        return _changed_bytes(_dumped(holder[0]).encode(errors="surrogatepass"), rng)
    return _dumped(holder[0]).encode(errors="surrogatepass")


def _dumped(tree: Any) -> str:
    return json.dumps(tree, ensure_ascii=False, separators=(",", ":"))


# Bytes.


def _changed_bytes(data: bytes, rng: random.Random) -> bytes:
    changes: tuple[Callable[[bytearray, int], None], ...] = (
        lambda some, at: some.__setitem__(slice(at, at + 1), bytes([some[at] ^ 1 << rng.randrange(8)])),
        lambda some, at: some.__setitem__(slice(at, at + 1), bytes([rng.randrange(256)])),
        lambda some, at: some.__delitem__(slice(at, at + rng.choice((1, 1, 2, 4, 8, 64)))),
        lambda some, at: some.__delitem__(slice(at, None)),
        lambda some, at: some.__setitem__(slice(at, at), rng.choice(_BYTES)),
        lambda some, at: some.__setitem__(slice(at, at), rng.randbytes(rng.choice((1, 2, 8)))),
        lambda some, at: some.__setitem__(slice(at, at), some[at : at + rng.choice((1, 4, 16, 64))]),
        lambda some, at: some.__setitem__(slice(at, at + 4), struct.pack("<I", rng.choice(_NUMBERS) & 2**32 - 1)),
        lambda some, at: some.__setitem__(slice(at, at + 8), struct.pack("<Q", rng.choice(_NUMBERS))),
    )
    if not data:
        return rng.choice(_BYTES)
    changed = bytearray(data)
    rng.choice(changes)(changed, rng.randrange(len(changed)))
    return bytes(changed)


def _changed_words(data: bytes, rng: random.Random) -> bytes:
    words = _WORD.findall(data)
    if not words:
        return rng.choice(_BYTES)
    at = rng.randrange(len(words))
    word = words[at]
    if word.isdigit() and len(word) < 100 and rng.random() < 0.7:
        words[at] = b"%d" % rng.choice((int(word) + 1, -int(word), int(word) * 10, rng.choice(_NUMBERS)))
    else:
        choice = rng.random()
        if choice < 0.4:
            words[at] = rng.choice(_BYTES)
        elif choice < 0.6:
            del words[at]
        elif choice < 0.8:
            words.insert(at, word)
        else:
            words[at] = rng.choice(words)
    return b"".join(words)
