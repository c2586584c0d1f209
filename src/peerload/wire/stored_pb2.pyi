from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import Any as _Any, ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class Publication(_message.Message):
    __slots__ = ("worker", "identity", "manifest")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    worker: bytes
    identity: bytes
    manifest: bytes
    def __init__(self, worker: _Optional[bytes] = ..., identity: _Optional[bytes] = ..., manifest: _Optional[bytes] = ...) -> None: ...
