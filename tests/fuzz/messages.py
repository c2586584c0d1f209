"""Valid messages of any type, filled from its descriptor, so that a new method has input to begin with."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any, Final

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from peerload.wire.pool import POOL

__all__ = ["filled", "request_type"]

_MOST_LEVELS: Final = 5


def request_type(path: str) -> Descriptor:
    """What the method of that path (`/package.Service/Method`) is asked with."""
    service, method = path.removeprefix("/").split("/")
    return POOL.FindServiceByName(service).methods_by_name[method].input_type


def filled(kind: Descriptor, rng: random.Random, known: Mapping[str, Any], level: int = 0) -> Message:
    """A message with most of its fields set: to what is `known` under their names, or to something of their type."""
    message = message_factory.GetMessageClass(kind)()
    for field in kind.fields:
        if level and rng.random() < 0.25:
            continue
        repeated = field.is_repeated if hasattr(field, "is_repeated") else field.label == FieldDescriptor.LABEL_REPEATED
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            value = field.message_type.fields_by_name["value"]
            if value.message_type is None:
                getattr(message, field.name).update({"rack": _scalar(value, rng, known)})
        elif field.message_type is not None:
            if level < _MOST_LEVELS and field.name not in known:
                for _ in range(rng.randrange(3) if repeated else 1):
                    part = filled(field.message_type, rng, known, level + 1)
                    into = getattr(message, field.name)
                    into.add().CopyFrom(part) if repeated else into.CopyFrom(part)
            elif field.name in known and not repeated:
                getattr(message, field.name).CopyFrom(known[field.name])
        elif repeated:
            getattr(message, field.name).extend(_scalar(field, rng, known) for _ in range(rng.randrange(3)))
        else:
            setattr(message, field.name, _scalar(field, rng, known))
    return message


def _scalar(field: FieldDescriptor, rng: random.Random, known: Mapping[str, Any]) -> Any:
    if field.name in known:
        return known[field.name]
    if field.enum_type is not None:
        return rng.choice(field.enum_type.values).number
    make: dict[int, Callable[[], Any]] = {
        FieldDescriptor.CPPTYPE_STRING: lambda: (
            rng.randbytes(4)
            if field.type == FieldDescriptor.TYPE_BYTES
            else rng.choice(("a", "org/model", "127.0.0.1:9", ""))
        ),
        FieldDescriptor.CPPTYPE_BOOL: lambda: rng.random() < 0.5,
        FieldDescriptor.CPPTYPE_DOUBLE: lambda: 0.5,
        FieldDescriptor.CPPTYPE_FLOAT: lambda: 0.5,
    }
    return make.get(field.cpp_type, lambda: rng.choice((0, 1, 4, 4096)))()
