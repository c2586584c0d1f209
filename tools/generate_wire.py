"""Compile src/peerload/wire/protos into descriptors.binpb and the typed message modules beside it.

Run it after changing a .proto: `make wire`. The modules find their messages in a descriptor pool of our own
(peerload.wire.pool), because the stock client package defines the same names in protobuf's default pool.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from google.protobuf import descriptor_pb2
from grpc_tools import protoc

WIRE = Path(__file__).resolve().parent.parent / "src" / "peerload" / "wire"


def main() -> int:
    protos = sorted((WIRE / "protos").glob("*.proto"))
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        arguments = [
            "protoc",
            f"--proto_path={WIRE / 'protos'}",
            f"--descriptor_set_out={out / 'set'}",
            f"--pyi_out={out}",
            *(path.name for path in protos),
        ]
        if code := protoc.main(arguments):
            return int(code)
        files = descriptor_pb2.FileDescriptorSet.FromString((out / "set").read_bytes())
        (WIRE / "descriptors.binpb").write_bytes(files.SerializeToString(deterministic=True))
        for proto in files.file:
            write_module(proto, (out / f"{Path(proto.name).stem}_pb2.pyi").read_text())
    return 0


def write_module(proto: descriptor_pb2.FileDescriptorProto, stub: str) -> None:
    """Write one message module and its stub."""
    name = f"{Path(proto.name).stem}_pb2"
    stub = re.sub(r"^import (\w+_pb2) as (\w+)", r"from peerload.wire import \1 as \2", stub, flags=re.MULTILINE)
    # protoc leaves Mapping bare, which strict checking refuses.
    stub = re.sub(r"\b_Mapping\]", "_Mapping[str, _Any]]", stub)
    stub = re.sub(r"^(from typing import )", r"\1Any as _Any, ", stub, flags=re.MULTILINE)
    (WIRE / f"{name}.pyi").write_text(stub)
    (WIRE / f"{name}.py").write_text(
        f'"""The messages of {proto.name}; made by tools/generate_wire.py."""\n\n'
        "from peerload.wire import pool\n\n"
        f'globals().update(pool.names_of("{proto.name}"))\n'
    )


if __name__ == "__main__":
    sys.exit(main())
