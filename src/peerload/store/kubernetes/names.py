"""What things are called in the cluster: objects by what they keep, and the labels by which they are found.

Names are made of keys alone, so that every server knows them without asking. Kubernetes takes few characters in a name or
a label; the original strings are kept inside of the objects.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from typing import Final

__all__ = [
    "API_VERSION",
    "GROUP",
    "KIND",
    "LABELS",
    "PLURAL",
    "Type",
    "chunk_name",
    "entry_name",
    "heartbeats_name",
    "label_path",
    "label_text",
    "layout_name",
    "prefix_selector",
    "selector",
    "server_of",
    "token_of",
    "type_of",
]

GROUP: Final = "peerload.dev"
API_VERSION: Final = f"{GROUP}/v1"
KIND: Final = "PeerloadRecord"
PLURAL: Final = "peerloadrecords"

_SLUG_CHARACTERS: Final = 36
"""Enough for a source's id, rank and the beginning of its worker id: kubectl shows names whole, before all else."""
_HASH_BYTES: Final = 20
_LABEL_CHARACTERS: Final = 63
_OTHERS: Final = re.compile(r"[^a-z0-9]+")
_UNLABELLED: Final = re.compile(r"[^A-Za-z0-9._-]")
_SOURCE_PREFIX: Final = re.compile(r"source/([^/]+)/", re.DOTALL)


class LABELS:
    """Names of labels. `SOURCE_ID` and those after it are sources' only."""

    INSTANCE: Final = f"{GROUP}/instance"
    TYPE: Final = f"{GROUP}/type"
    SOURCE_ID: Final = f"{GROUP}/source-id"
    MODEL: Final = f"{GROUP}/model"
    STATUS: Final = f"{GROUP}/status"
    RANK: Final = f"{GROUP}/rank"


class Type:
    """Values of the label `LABELS.TYPE`. Entries have one of the first four; keys cannot ask for the others."""

    SOURCE: Final = "source"
    SERVER: Final = "server"
    CLAIM: Final = "claim"
    OTHER: Final = "other"
    HEARTBEATS: Final = "heartbeats"
    LAYOUT: Final = "layout"
    BLOB: Final = "blob"


def type_of(key: str) -> str:
    """What an entry is, by what its key begins with."""
    kind, slash, _ = key.partition("/")
    return kind if slash and kind in (Type.SOURCE, Type.SERVER, Type.CLAIM) else Type.OTHER


def entry_name(instance: str, key: str) -> str:
    """The name of an entry's object: something to read, and 160 bits by which no two keys share it."""
    return _hashed(key, f"{instance}\0{key}")


def layout_name(instance: str) -> str:
    """The name of the object that says how things are kept. No entry has it: of them no key is empty."""
    return _hashed("layout", f"{instance}\0")


def heartbeats_name(token: str, number: int) -> str:
    """The name of a server's object of shared heartbeats."""
    return f"heartbeats-{token}-{number}"


def server_of(name: str) -> str:
    """The token in the name of an object of shared heartbeats; empty where there is none."""
    parts = name.split("-")
    return parts[1] if len(parts) == 3 and parts[0] == "heartbeats" else ""


def chunk_name(token: str, number: int) -> str:
    """The name of a ConfigMap that holds a part of a blob."""
    return f"peerload-{token}-{number}"


def token_of(name: str) -> str:
    """The token in the name of a part of a blob; empty where there is none."""
    parts = name.split("-")
    return parts[1] if len(parts) == 3 and parts[0] == "peerload" and parts[2].isdecimal() else ""


def label_text(text: str) -> str:
    """As much of a text as a label can hold; may be empty. Two texts may share it."""
    return _UNLABELLED.sub("_", text)[:_LABEL_CHARACTERS].strip("._-")


def label_path(name: str) -> str:
    """A label in a JSON Patch."""
    return "/metadata/labels/" + name.replace("~", "~0").replace("/", "~1")


def selector(labels: Mapping[str, str]) -> str:
    """A label selector."""
    return ",".join(f"{name}={value}" for name, value in labels.items())


def prefix_selector(prefix: str) -> dict[str, str]:
    """Labels of all entries whose keys begin with the prefix. Others may have them too."""
    labels: dict[str, str] = {}
    if (kind := type_of(prefix)) != Type.OTHER:
        labels[LABELS.TYPE] = kind
    found = _SOURCE_PREFIX.match(prefix)
    if found is not None and (text := label_text(found[1])):
        labels[LABELS.SOURCE_ID] = text
    return labels


def _hashed(shown: str, hashed: str) -> str:
    slug = _OTHERS.sub("-", shown[: 2 * _SLUG_CHARACTERS].lower()).strip("-")[:_SLUG_CHARACTERS].rstrip("-")
    digest = base64.b32encode(hashlib.blake2b(hashed.encode(), digest_size=_HASH_BYTES).digest()).decode().lower()
    return f"{slug}-{digest}" if slug else digest
