"""Two identities, field by field, by the rules of the source id: what differs here is what makes two ids differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.message import DecodeError

from peerload.server.diagnosis.finding import IDENTITY_FIELDS, Finding
from peerload.server.diagnosis.shown import MAX_KEY, kept, parameter
from peerload.wire.identity import canonical
from peerload.wire.p2p_pb2 import BackendFramework, MxSourceType, SourceIdentity

__all__ = ["Nearest", "few", "nearest", "shown_field", "shown_parameters"]

_PARAMETERS: Final = "extra_parameters"
_FORM_KEY: Final = "peerload.form"
"""Where it differs, so does everything else: it is told before the others."""
_MOST_PARAMETERS: Final = 16
"""Differing keys that are named."""
_MOST_VALUES: Final = 5
_ENUMS: Final = {
    "mx_source_type": (MxSourceType, "MX_SOURCE_TYPE_"),
    "backend_framework": (BackendFramework, "BACKEND_FRAMEWORK_"),
}


@dataclass(frozen=True, slots=True)
class Nearest:
    """Which of some identities comes nearest to one that was asked for."""

    index: int
    """The first of those that differ least."""
    findings: tuple[Finding, ...]
    """What differs, with the values of all that differ from what was asked for in just the same fields."""


class _Spelled:
    """An identity with its values as they count and as they were spelled."""

    def __init__(self, identity: SourceIdentity) -> None:
        self.identity = identity
        self.counts: dict[str, Any] = canonical(identity)
        self.parameters: dict[str, tuple[str, str]] = {}
        for key, value in sorted(identity.extra_parameters.items()):
            self.parameters.setdefault(key.lower(), (key, value))

    def differs(self, other: _Spelled) -> tuple[tuple[str, str], ...]:
        """The fields that differ, and of extra_parameters each key; the weightiest first."""
        found = [
            (name, "")
            for name in IDENTITY_FIELDS
            if name != _PARAMETERS and self.counts.get(name) != other.counts.get(name)
        ]
        mine, theirs = self.counts[_PARAMETERS], other.counts[_PARAMETERS]
        keys = sorted(key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key))
        found += [(_PARAMETERS, key) for key in keys]
        if _FORM_KEY in keys:
            found.sort(key=lambda place: (place[0] != "model_name", place != (_PARAMETERS, _FORM_KEY)))
        return tuple(found)

    def value(self, field: str, key: str) -> str | None:
        """A value as it may be shown; None: not given."""
        if field != _PARAMETERS:
            return shown_field(self.identity, field)
        spelled = self.parameters.get(key)
        return None if spelled is None else parameter(*spelled)


def nearest(asked: SourceIdentity, encoded: Sequence[bytes]) -> Nearest | None:
    """The identity among some encoded ones that differs least; of equals the first. None where none can be read.

    Takes milliseconds for thousands of extra_parameters: large ones belong in a thread.
    """
    wanted = _Spelled(asked)
    others: dict[int, _Spelled] = {}
    for index, each in enumerate(encoded):
        try:
            others[index] = _Spelled(SourceIdentity.FromString(each))
        except DecodeError:
            continue
    if not others:
        return None
    differing = {index: wanted.differs(other) for index, other in others.items()}
    best = min(differing, key=lambda index: (len(differing[index]), index))
    alike = [others[index] for index, places in differing.items() if places == differing[best]]
    return Nearest(best, tuple(_findings(wanted, alike, differing[best])))


def _findings(wanted: _Spelled, alike: Sequence[_Spelled], places: Sequence[tuple[str, str]]) -> list[Finding]:
    found = []
    parameters = 0
    for field, key in places:
        spelled = ""
        if field == _PARAMETERS:
            parameters += 1
            if parameters > _MOST_PARAMETERS:
                continue
            name = next(each.parameters[key][0] for each in (wanted, *alike) if key in each.parameters)
            spelled = kept(name, MAX_KEY) or '""'
        have = few([other.value(field, key) for other in alike])
        found.append(Finding(field, wanted.value(field, key), have, spelled))
    if parameters > _MOST_PARAMETERS:
        found.append(Finding(_PARAMETERS, f"({parameters - _MOST_PARAMETERS:,} more keys)", ("others",)))
    return found


def few(values: Iterable[str | None]) -> tuple[str | None, ...]:
    """The different ones among some values, not too many of them."""
    different = tuple(dict.fromkeys(values))
    if len(different) <= _MOST_VALUES:
        return different
    return (*different[:_MOST_VALUES], f"… ({len(different) - _MOST_VALUES:,} more)")


def shown_field(identity: SourceIdentity, field: str) -> str | None:
    """One of an identity's single values as it may be shown; None where an empty text says that it is not given."""
    value = getattr(identity, field)
    if isinstance(value, str):
        return kept(value) if value else None
    if field in _ENUMS:
        names, prefix = _ENUMS[field]
        return names.Name(value).removeprefix(prefix) if value in names.values() else str(int(value))
    return str(value)


def shown_parameters(parameters: Mapping[str, str], most: int) -> list[tuple[str, str]]:
    """The first of some extra_parameters, as they may be shown."""
    return [(kept(key, MAX_KEY), parameter(key, value)) for key, value in sorted(parameters.items())[:most]]
