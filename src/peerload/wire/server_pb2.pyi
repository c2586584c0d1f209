from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import Any as _Any, ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DescribeResponse(_message.Message):
    __slots__ = ("version", "host", "listen", "uptime_ms", "wall_ms", "store_ms")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    LISTEN_FIELD_NUMBER: _ClassVar[int]
    UPTIME_MS_FIELD_NUMBER: _ClassVar[int]
    WALL_MS_FIELD_NUMBER: _ClassVar[int]
    STORE_MS_FIELD_NUMBER: _ClassVar[int]
    version: str
    host: str
    listen: str
    uptime_ms: int
    wall_ms: int
    store_ms: int
    def __init__(self, version: _Optional[str] = ..., host: _Optional[str] = ..., listen: _Optional[str] = ..., uptime_ms: _Optional[int] = ..., wall_ms: _Optional[int] = ..., store_ms: _Optional[int] = ...) -> None: ...
