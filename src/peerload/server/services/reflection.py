"""Server reflection (grpc.reflection.v1 and v1alpha): how tools such as grpcurl learn what is served here.

The two protocols differ by name only. The protocol: https://github.com/grpc/grpc/blob/master/doc/server-reflection.md
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterator
from types import ModuleType

from google.protobuf.descriptor import FileDescriptor

from peerload.server.rpc import Bidi, BidiMethod, Code, Context, Methods
from peerload.server.services.messages import decode, shown
from peerload.wire import grpc_reflection_v1_pb2, grpc_reflection_v1alpha_pb2
from peerload.wire.pool import POOL, serialized_file

__all__ = ["Reflection"]


class Reflection:
    """Tells of the services named in `services` (which may grow until the server starts) and of nothing else."""

    def __init__(self, services: Collection[str]) -> None:
        self._services = services

    def methods(self) -> Methods:
        """Its table."""
        return {
            f"/{module.DESCRIPTOR.package}.ServerReflection/ServerReflectionInfo": BidiMethod(self._speak(module))
            for module in (grpc_reflection_v1_pb2, grpc_reflection_v1alpha_pb2)
        }

    def _speak(self, module: ModuleType) -> Bidi:
        async def info(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
            async for request in requests:
                yield self._answer(module, request)

        return info

    def _answer(self, module: ModuleType, encoded: bytes) -> bytes:
        request = decode(module.ServerReflectionRequest, encoded)
        answer = module.ServerReflectionResponse(valid_host=request.host, original_request=request)
        try:
            match request.WhichOneof("message_request"):
                case "list_services":
                    answer.list_services_response.SetInParent()
                    for name in sorted(self._services):
                        answer.list_services_response.service.add(name=name)
                case "file_by_filename":
                    self._put_files(answer, request.file_by_filename)
                case "file_containing_symbol":
                    file = POOL.FindFileContainingSymbol(request.file_containing_symbol)
                    self._put_files(answer, file.name)
                case "all_extension_numbers_of_type":
                    wanted = request.all_extension_numbers_of_type
                    self._check(POOL.FindMessageTypeByName(wanted).file.name)
                    answer.all_extension_numbers_response.base_type_name = wanted
                case "file_containing_extension":
                    # proto3 messages have no extensions.
                    raise KeyError(request.file_containing_extension.containing_type)
                case _:
                    answer.error_response.error_code = int(Code.INVALID_ARGUMENT)
                    answer.error_response.error_message = "the request asks for nothing that is known here"
        except KeyError as missing:
            answer.error_response.error_code = int(Code.NOT_FOUND)
            answer.error_response.error_message = f"not found: {shown(str(missing.args[0]))}"
        return bytes(answer.SerializeToString())

    def _put_files(self, answer: object, name: str) -> None:
        self._check(name)
        files = answer.file_descriptor_response.file_descriptor_proto  # type: ignore[attr-defined]
        files.extend(serialized_file(file.name) for file in _with_dependencies(POOL.FindFileByName(name)))

    def _check(self, name: str) -> None:
        """Raise KeyError for a file that none of the services needs."""
        for service in self._services:
            file = POOL.FindServiceByName(service).file
            if any(needed.name == name for needed in _with_dependencies(file)):
                return
        raise KeyError(name)


def _with_dependencies(file: FileDescriptor) -> Iterator[FileDescriptor]:
    """The file, then what it imports, each once."""
    seen: set[str] = set()
    ahead = [file]
    while ahead:
        current = ahead.pop(0)
        if current.name not in seen:
            seen.add(current.name)
            yield current
            ahead.extend(current.dependencies)
