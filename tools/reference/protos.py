"""The pages of the wire, one for each package, from the protos and their comments."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)

__all__ = ["pages"]

PROTOS = Path(__file__).resolve().parents[2] / "src" / "peerload" / "wire" / "protos"

# Numbers of members in descriptor.proto, of which the paths to comments are made.
_MESSAGES, _ENUMS, _SERVICES, _SYNTAX = 4, 5, 6, 12
_FIELDS, _NESTED, _NESTED_ENUMS, _METHODS, _VALUES = 2, 3, 4, 2, 2

Path_ = tuple[int, ...]


def pages() -> dict[str, str]:
    """Each package's page in Markdown, by its name. Packages without a service are nobody's to call and are left out."""
    parsed = compiled()
    packages = sorted({each.package for each in parsed.file if each.service})
    made = {}
    for package in packages:
        files = [each for each in parsed.file if each.package == package]
        made[package] = f"# {package}\n\n" + "\n".join(File(each, packages).text() for each in files)
    return made


def compiled() -> FileDescriptorSet:
    """Every proto, with its comments."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "set"
        # In a process of its own: what it loads and NIXL's libraries cannot both be in one.
        command = [
            *(sys.executable, "-m", "grpc_tools.protoc"),
            f"--proto_path={PROTOS}",
            "--include_source_info",
            f"--descriptor_set_out={out}",
            *(path.name for path in sorted(PROTOS.glob("*.proto"))),
        ]
        subprocess.run(command, check=True)
        return FileDescriptorSet.FromString(out.read_bytes())


class File:
    """One proto as a part of its package's page."""

    def __init__(self, proto: FileDescriptorProto, packages: list[str]) -> None:
        self._proto = proto
        self._packages = packages
        self._comments: Mapping[Path_, str] = {
            tuple(each.path): each.leading_comments or each.trailing_comments
            for each in proto.source_code_info.location
        }

    def text(self) -> str:
        """The file's services first, then its messages and enumerations."""
        parts = [f"## {self._proto.name}\n", self._about((_SYNTAX,))]
        for index, service in enumerate(self._proto.service):
            parts.append(self._service(service, (_SERVICES, index)))
        for index, message in enumerate(self._proto.message_type):
            parts += self._message(message, self._proto.package, (_MESSAGES, index))
        for index, enum in enumerate(self._proto.enum_type):
            parts.append(self._enum(enum, self._proto.package, (_ENUMS, index)))
        return "\n".join(part for part in parts if part)

    def _service(self, service: ServiceDescriptorProto, path: Path_) -> str:
        lines = [self._heading(service.name, self._proto.package), self._about(path)]
        lines += ["| method | takes | answers | |", "| --- | --- | --- | --- |"]
        for index, method in enumerate(service.method):
            takes = ("stream of " if method.client_streaming else "") + self._link(method.input_type)
            answers = ("stream of " if method.server_streaming else "") + self._link(method.output_type)
            about = self._cell((*path, _METHODS, index))
            lines.append(f"| `{method.name}` | {takes} | {answers} | {about} |")
        return "\n".join(lines) + "\n"

    def _message(self, message: DescriptorProto, scope: str, path: Path_) -> Iterator[str]:
        lines = [self._heading(message.name, scope), self._about(path)]
        name = f"{scope}.{message.name}"
        entries = {f".{name}.{each.name}": each for each in message.nested_type if each.options.map_entry}
        if message.field:
            lines += ["| number | field | type | |", "| --- | --- | --- | --- |"]
        for index, field in enumerate(message.field):
            about = self._cell((*path, _FIELDS, index))
            lines.append(f"| {field.number} | `{field.name}` | {self._type(field, entries)} | {about} |")
        yield "\n".join(lines) + "\n"
        for index, nested in enumerate(message.nested_type):
            if not nested.options.map_entry:
                yield from self._message(nested, name, (*path, _NESTED, index))
        for index, enum in enumerate(message.enum_type):
            yield self._enum(enum, name, (*path, _NESTED_ENUMS, index))

    def _enum(self, enum: EnumDescriptorProto, scope: str, path: Path_) -> str:
        lines = [self._heading(enum.name, scope), self._about(path), "| number | value | |", "| --- | --- | --- |"]
        for index, value in enumerate(enum.value):
            lines.append(f"| {value.number} | `{value.name}` | {self._cell((*path, _VALUES, index))} |")
        return "\n".join(lines) + "\n"

    def _type(self, field: FieldDescriptorProto, entries: Mapping[str, DescriptorProto]) -> str:
        if entry := entries.get(field.type_name):
            key, value = (self._type(each, {}) for each in entry.field)
            return f"map of {key} to {value}"
        name = self._link(field.type_name) if field.type_name else scalar(field)
        if field.label == FieldDescriptorProto.LABEL_REPEATED:
            return f"repeated {name}"
        return f"optional {name}" if field.proto3_optional else name

    def _heading(self, name: str, scope: str) -> str:
        full = f"{scope}.{name}"
        return f"### {full.removeprefix(f'{self._proto.package}.')} {{ #{full} }}\n"

    def _link(self, name: str) -> str:
        name = name.removeprefix(".")
        package = max((each for each in self._packages if name.startswith(f"{each}.")), key=len)
        page = "" if package == self._proto.package else f"{package}.md"
        shown = name.removeprefix(f"{package}.") if not page else name
        return f"[`{shown}`]({page}#{name})"

    def _about(self, path: Path_) -> str:
        return escaped(self._comments.get(path, "").strip()) + "\n"

    def _cell(self, path: Path_) -> str:
        return " ".join(escaped(self._comments.get(path, "")).split()).replace("|", "\\|")


def scalar(field: Any) -> str:
    """The proto's word for a type that is no message."""
    return FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()


def escaped(text: str) -> str:
    """A comment, with nothing in it that Markdown would take for its own; what stands in backticks stays."""
    parts = re.split(r"(`[^`]*`)", re.sub(r"^ ", "", text, flags=re.MULTILINE))
    return "".join(each if each.startswith("`") else re.sub(r"([\\*_<>\[\]])", r"\\\1", each) for each in parts)
