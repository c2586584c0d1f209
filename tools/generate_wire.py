"""Compile src/peerload/wire/protos into descriptors.binpb and the typed message modules beside it.

Run it after changing a .proto: `make wire`; with --check it writes nothing and fails if anything is out of date. The
modules find their messages in a descriptor pool of our own (peerload.wire.pool), because the stock client package
defines the same names in protobuf's default pool.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from google.protobuf import descriptor_pb2
from grpc_tools import protoc

WIRE = Path(__file__).resolve().parent.parent / "src" / "peerload" / "wire"


def main(check: bool) -> int:
    """Compile and write; with `check` only compare. Returns the exit status."""
    made = compile_protos()
    stale = [name for name, content in made.items() if not same(WIRE / name, content)]
    if check:
        for name in stale:
            print(f"{WIRE.name}/{name} is out of date: run `make wire`", file=sys.stderr)
        return 1 if stale else 0
    for name in stale:
        (WIRE / name).write_bytes(made[name])
    return 0


def same(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content


def compile_protos() -> dict[str, bytes]:
    """Every generated file's content, by name."""
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
            sys.exit(int(code))
        files = descriptor_pb2.FileDescriptorSet.FromString((out / "set").read_bytes())
        made = {"descriptors.binpb": files.SerializeToString(deterministic=True)}
        for proto in files.file:
            made |= module(proto, (out / f"{Path(proto.name).stem}_pb2.pyi").read_text())
    return made


def module(proto: descriptor_pb2.FileDescriptorProto, stub: str) -> dict[str, bytes]:
    """One message module and its stub."""
    name = f"{Path(proto.name).stem}_pb2"
    stub = re.sub(r"^import (\w+_pb2) as (\w+)", r"from peerload.wire import \1 as \2", stub, flags=re.MULTILINE)
    # protoc leaves Mapping bare, which strict checking refuses.
    stub = re.sub(r"\b_Mapping\]", "_Mapping[str, _Any]]", stub)
    stub = re.sub(r"^(from typing import )", r"\1Any as _Any, ", stub, flags=re.MULTILINE)
    code = (
        f'"""The messages of {proto.name}; made by tools/generate_wire.py."""\n\n'
        "from peerload.wire import pool\n\n"
        f'globals().update(pool.names_of("{proto.name}"))\n'
    )
    return {f"{name}.pyi": stub.encode(), f"{name}.py": code.encode()}


if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv[1:]))
