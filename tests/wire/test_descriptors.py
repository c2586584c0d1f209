"""Our messages are the stock package's, field by field, and both live in one process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2

from peerload.wire import p2p_pb2, pool
from tests.support.stock import import_stock


def described(file: Any) -> descriptor_pb2.FileDescriptorProto:
    proto = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(proto)
    return proto


def lines_of(file: descriptor_pb2.FileDescriptorProto) -> Iterator[str]:
    """What a file defines, a line a thing, whatever the order in which it stands there."""

    def message(prefix: str, proto: descriptor_pb2.DescriptorProto) -> Iterator[str]:
        name = f"{prefix}{proto.name}"
        yield f"message {name} map={proto.options.map_entry}"
        for field in proto.field:
            oneof = proto.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else ""
            optional = field.proto3_optional
            yield (
                f"field {name}.{field.name} = {field.number} type={field.type} label={field.label} of={field.type_name} "
                f"oneof={oneof} optional={optional}"
            )
        for nested in proto.nested_type:
            yield from message(f"{name}.", nested)
        for enum in proto.enum_type:
            yield from enumeration(f"{name}.", enum)

    def enumeration(prefix: str, proto: descriptor_pb2.EnumDescriptorProto) -> Iterator[str]:
        for value in proto.value:
            yield f"enum {prefix}{proto.name}.{value.name} = {value.number}"

    yield f"package {file.package} {file.syntax}"
    for proto in file.message_type:
        yield from message("", proto)
    for enum in file.enum_type:
        yield from enumeration("", enum)
    for service in file.service:
        for method in service.method:
            yield (
                f"rpc {service.name}.{method.name} {method.input_type} -> {method.output_type} "
                f"{method.client_streaming} {method.server_streaming}"
            )


def test_the_contract_is_the_stock_packages() -> None:
    ours = sorted(lines_of(described(p2p_pb2.DESCRIPTOR)))
    theirs = sorted(lines_of(described(import_stock("p2p_pb2").DESCRIPTOR)))
    assert ours == theirs


def test_both_packages_speak_in_one_process() -> None:
    theirs = import_stock("p2p_pb2")
    encoded = theirs.SourceIdentity(model_name="org/name", extra_parameters={"a": "b"}).SerializeToString()
    ours = p2p_pb2.SourceIdentity.FromString(encoded)
    assert type(ours) is not theirs.SourceIdentity
    assert (ours.model_name, dict(ours.extra_parameters)) == ("org/name", {"a": "b"})


@pytest.mark.parametrize(
    "name", ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"]
)
def test_the_standard_services_are_the_standards(name: str) -> None:
    from grpc_health.v1 import health_pb2
    from grpc_reflection.v1alpha import reflection_pb2

    ours = list(lines_of(described(pool.POOL.FindServiceByName(name).file)))
    standard = health_pb2 if "health" in name else reflection_pb2
    theirs = [line.replace(".v1alpha", ".v1") for line in lines_of(described(standard.DESCRIPTOR))]
    # The two reflection versions are one text.
    assert sorted(line.replace(".v1alpha", ".v1") for line in ours) == sorted(theirs)


def test_the_modules_are_what_the_protos_say(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    before = {path.name: path.read_bytes() for path in (root / "src/peerload/wire").glob("*_pb2.py*")}
    before["descriptors.binpb"] = (root / "src/peerload/wire/descriptors.binpb").read_bytes()
    script = (
        (root / "tools/generate_wire.py")
        .read_text()
        .replace('Path(__file__).resolve().parent.parent / "src" / "peerload" / "wire"', f'Path("{tmp_path}")')
    )
    (tmp_path / "protos").symlink_to(root / "src/peerload/wire/protos")
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.*")} == before
