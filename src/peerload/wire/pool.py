"""Our private descriptor pool.

The stock client package registers the same file and message names in protobuf's default pool, which refuses a
second definition; with a pool of our own both packages live in one process.
"""

from __future__ import annotations

from importlib import resources
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.internal import enum_type_wrapper

__all__ = ["POOL", "file_names", "names_of", "serialized_file"]


def _load() -> tuple[descriptor_pool.DescriptorPool, dict[str, bytes]]:
    data = resources.files(__package__).joinpath("descriptors.binpb").read_bytes()
    files = {proto.name: proto for proto in descriptor_pb2.FileDescriptorSet.FromString(data).file}
    pool = descriptor_pool.DescriptorPool()
    added: set[str] = set()

    def add(name: str) -> None:
        if name not in added:
            added.add(name)
            for dependency in files[name].dependency:
                add(dependency)
            pool.Add(files[name])

    for name in files:
        add(name)
    return pool, {name: proto.SerializeToString() for name, proto in files.items()}


POOL, _FILES = _load()
"""Every message and service that Peerload speaks."""


def file_names() -> list[str]:
    """The names of our .proto files."""
    return list(_FILES)


def serialized_file(name: str) -> bytes:
    """One of our files as an encoded FileDescriptorProto. Raises KeyError."""
    return _FILES[name]


def names_of(file_name: str) -> dict[str, Any]:
    """What a generated module for that file would define: message classes, enum wrappers, enum values, DESCRIPTOR."""
    file: Final[FileDescriptor] = POOL.FindFileByName(file_name)
    names: dict[str, Any] = {"DESCRIPTOR": file}
    for name, message in file.message_types_by_name.items():
        names[name] = message_factory.GetMessageClass(message)
    for name, enum in file.enum_types_by_name.items():
        names[name] = enum_type_wrapper.EnumTypeWrapper(enum)
        names.update((value.name, value.number) for value in enum.values)
    return names
