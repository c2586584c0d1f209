"""The access file: who is known, by what, and what each of them may do.

::

    [[token]]
    name = "ci"
    sha256 = "…"            # of the token, 64 hexadecimal digits; a list of several while one replaces another
    role = "publish"        # read, publish or admin
    models = ["org/*"]      # patterns of models' names; left out: all

    [[service_account]]
    name = "inference/*"    # NAMESPACE/NAME, patterns
    role = "publish"

    [[certificate]]
    name = "spiffe://prod/ns/inference/*"   # a URI, a DNS name or the common name, patterns
    role = "read"

Of several service accounts or certificates that fit, the first counts. It holds hashes, and no secret.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final, NoReturn

from peerload.errors import InvalidArgument
from peerload.metadata.limits import MAX_NAME_BYTES, MAX_TEXT_BYTES
from peerload.metadata.principals import EVERY_MODEL, Principal, Role

__all__ = ["Access", "Rule", "Token", "digest", "parse", "read"]

_MOST_FILE_BYTES: Final = 4 << 20
_MOST_ENTRIES: Final = 1_000
"""Of each kind. Every call is compared with all tokens, so that the time it takes tells nothing."""
_MOST_PATTERNS: Final = 256
_DIGEST: Final = re.compile("[0-9a-fA-F]{64}")
_ROLES: Final = {role.name.lower(): role for role in Role}
_KINDS: Final = ("token", "service_account", "certificate")


@dataclass(frozen=True, slots=True)
class Token:
    """A static token: digests by which it is known, and whose it is."""

    digests: tuple[bytes, ...] = field(repr=False)
    principal: Principal


@dataclass(frozen=True, slots=True)
class Rule:
    """Whoever's name fits `pattern` may do so much."""

    pattern: str
    role: Role
    models: tuple[str, ...]

    def fits(self, name: str) -> bool:
        """Whether that is one of them."""
        return fnmatchcase(name, self.pattern)


@dataclass(frozen=True, slots=True)
class Access:
    """What an access file says."""

    tokens: tuple[Token, ...] = ()
    service_accounts: tuple[Rule, ...] = ()
    certificates: tuple[Rule, ...] = ()


def digest(token: str) -> bytes:
    """What is kept of a token: its SHA-256. Tokens are 256 random bits, so that there is nothing to guess or to salt."""
    return hashlib.sha256(token.encode(errors="surrogatepass")).digest()


def read(path: Path) -> Access:
    """What the file says. Raises `InvalidArgument`, naming file, line or entry, and field, and quoting nothing that could be
    a secret."""
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_FILE_BYTES + 1)
    except OSError as error:
        raise InvalidArgument("access", f"{path}: {error.strerror}") from None
    if len(data) > _MOST_FILE_BYTES:
        raise InvalidArgument("access", f"{path}: has more than {_MOST_FILE_BYTES} bytes")
    try:
        return parse(data.decode())
    except UnicodeDecodeError:
        raise InvalidArgument("access", f"{path}: is not UTF-8") from None
    except ValueError as error:
        raise InvalidArgument("access", f"{path}: {error}") from None


def parse(text: str) -> Access:
    """What a file's text says. Raises ValueError."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"is not TOML{_place(str(error))}") from None
    except RecursionError:
        raise ValueError("is not TOML: it is nested too deeply") from None
    for name in document:
        if name not in _KINDS:
            raise ValueError(f"has {name[:100]!r}, which is none of [[{']], [['.join(_KINDS)}]]")
    return Access(
        tokens=_tokens(document),
        service_accounts=tuple(_rule(entry, slash=True) for entry in _entries(document, "service_account")),
        certificates=tuple(_rule(entry) for entry in _entries(document, "certificate")),
    )


def _place(words: str) -> str:
    """Where a file stops being TOML. What stands there is not said: it may be a secret."""
    found = re.search(r"\(at (line \d+, column \d+|end of document)\)", words)
    return f", at {found[1]}" if found else ""


class _Entry:
    """One table of the file, and what it is called where something is wrong with it."""

    def __init__(self, kind: str, number: int, table: Mapping[str, Any], fields: tuple[str, ...]) -> None:
        name = table.get("name")
        called = f" ({name[:100]!r})" if isinstance(name, str) and name else ""
        self._where = f"{kind} {number}{called}"
        self._table = table
        for key in table:
            if key not in fields:
                self.refuse(key[:100], f"is none of {', '.join(fields)}")

    def refuse(self, name: str, words: str) -> NoReturn:
        raise ValueError(f"{self._where}: {name}: {words}")

    @property
    def name(self) -> str:
        name = self._table.get("name")
        if not isinstance(name, str) or not name:
            self.refuse("name", "is missing" if name is None else "must be text")
        if not name.isprintable() or len(name.encode()) > MAX_TEXT_BYTES:
            self.refuse("name", f"must be printable, and {MAX_TEXT_BYTES} bytes at most")
        return name

    @property
    def role(self) -> Role:
        role = self._table.get("role")
        if role is None:
            self.refuse("role", f"is missing: one of {', '.join(_ROLES)}")
        if not isinstance(role, str) or role not in _ROLES:
            self.refuse("role", f"must be one of {', '.join(_ROLES)} (it is {str(role)[:100]!r})")
        return _ROLES[role]

    @property
    def models(self) -> tuple[str, ...]:
        models = self._table.get("models", list(EVERY_MODEL))
        if not isinstance(models, list) or not models or not all(isinstance(each, str) and each for each in models):
            self.refuse("models", 'must be a list of patterns, as in ["org/*"]; left out: all models')
        if len(models) > _MOST_PATTERNS or any(len(each.encode()) > MAX_NAME_BYTES for each in models):
            self.refuse("models", f"must be {_MOST_PATTERNS} patterns of {MAX_NAME_BYTES} bytes at most")
        return EVERY_MODEL if "*" in models else tuple(models)

    @property
    def digests(self) -> tuple[bytes, ...]:
        given = self._table.get("sha256")
        if given is None:
            self.refuse("sha256", "is missing")
        listed = given if isinstance(given, list) else [given]
        if not listed or not all(isinstance(each, str) and _DIGEST.fullmatch(each) for each in listed):
            # What stands there instead may be the token itself.
            self.refuse("sha256", "must be 64 hexadecimal digits, or a list of such")
        return tuple(map(bytes.fromhex, listed))


def _entries(document: Mapping[str, Any], kind: str, *more: str) -> Iterator[_Entry]:
    tables = document.get(kind, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ValueError(f"{kind}: each is a table of its own, [[{kind}]]")
    if len(tables) > _MOST_ENTRIES:
        raise ValueError(f"{kind}: there are {len(tables)}, more than {_MOST_ENTRIES}")
    for number, table in enumerate(tables, 1):
        yield _Entry(kind, number, table, ("name", *more, "role", "models"))


def _tokens(document: Mapping[str, Any]) -> tuple[Token, ...]:
    tokens: list[Token] = []
    names: set[str] = set()
    known: set[bytes] = set()
    for entry in _entries(document, "token", "sha256"):
        name, digests = entry.name, entry.digests
        if name in names:
            entry.refuse("name", "another token has it already (sha256 may be a list)")
        if known.intersection(digests) or len(set(digests)) != len(digests):
            entry.refuse("sha256", "is there twice")
        names.add(name)
        known.update(digests)
        tokens.append(Token(digests, Principal(f"token:{name}", entry.role, entry.models)))
    if len(known) > _MOST_ENTRIES:
        raise ValueError(f"token: there are {len(known)} sha256, more than {_MOST_ENTRIES}")
    return tuple(tokens)


def _rule(entry: _Entry, *, slash: bool = False) -> Rule:
    name = entry.name
    if slash and name.count("/") != 1:
        entry.refuse("name", "must be NAMESPACE/NAME")
    return Rule(name, entry.role, entry.models)
