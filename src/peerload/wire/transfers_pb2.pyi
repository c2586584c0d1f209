from peerload.wire import sources_pb2 as _sources_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import Any as _Any, ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTCOME_UNSPECIFIED: _ClassVar[Outcome]
    OUTCOME_OK: _ClassVar[Outcome]
    OUTCOME_REFUSED: _ClassVar[Outcome]
    OUTCOME_UNREACHABLE: _ClassVar[Outcome]
    OUTCOME_LOST: _ClassVar[Outcome]
    OUTCOME_STALLED: _ClassVar[Outcome]
    OUTCOME_CORRUPT: _ClassVar[Outcome]
    OUTCOME_BUSY: _ClassVar[Outcome]
    OUTCOME_FAILED: _ClassVar[Outcome]
OUTCOME_UNSPECIFIED: Outcome
OUTCOME_OK: Outcome
OUTCOME_REFUSED: Outcome
OUTCOME_UNREACHABLE: Outcome
OUTCOME_LOST: Outcome
OUTCOME_STALLED: Outcome
OUTCOME_CORRUPT: Outcome
OUTCOME_BUSY: Outcome
OUTCOME_FAILED: Outcome

class Transfer(_message.Message):
    __slots__ = ("source", "outcome", "bytes", "seconds", "engine", "target", "attempt")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    source: _sources_pb2.SourceRef
    outcome: Outcome
    bytes: int
    seconds: float
    engine: str
    target: Target
    attempt: str
    def __init__(self, source: _Optional[_Union[_sources_pb2.SourceRef, _Mapping[str, _Any]]] = ..., outcome: _Optional[_Union[Outcome, str]] = ..., bytes: _Optional[int] = ..., seconds: _Optional[float] = ..., engine: _Optional[str] = ..., target: _Optional[_Union[Target, _Mapping[str, _Any]]] = ..., attempt: _Optional[str] = ...) -> None: ...

class Target(_message.Message):
    __slots__ = ("worker_id", "worker_rank", "host")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    WORKER_RANK_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    worker_rank: int
    host: str
    def __init__(self, worker_id: _Optional[str] = ..., worker_rank: _Optional[int] = ..., host: _Optional[str] = ...) -> None: ...

class ReportRequest(_message.Message):
    __slots__ = ("transfers",)
    TRANSFERS_FIELD_NUMBER: _ClassVar[int]
    transfers: _containers.RepeatedCompositeFieldContainer[Transfer]
    def __init__(self, transfers: _Optional[_Iterable[_Union[Transfer, _Mapping[str, _Any]]]] = ...) -> None: ...

class ReportResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Reading(_message.Message):
    __slots__ = ("attempt", "source", "target", "engine", "bytes", "total_bytes", "seconds", "abandoned")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    ABANDONED_FIELD_NUMBER: _ClassVar[int]
    attempt: str
    source: _sources_pb2.SourceRef
    target: Target
    engine: str
    bytes: int
    total_bytes: int
    seconds: float
    abandoned: bool
    def __init__(self, attempt: _Optional[str] = ..., source: _Optional[_Union[_sources_pb2.SourceRef, _Mapping[str, _Any]]] = ..., target: _Optional[_Union[Target, _Mapping[str, _Any]]] = ..., engine: _Optional[str] = ..., bytes: _Optional[int] = ..., total_bytes: _Optional[int] = ..., seconds: _Optional[float] = ..., abandoned: _Optional[bool] = ...) -> None: ...

class ProgressRequest(_message.Message):
    __slots__ = ("readings",)
    READINGS_FIELD_NUMBER: _ClassVar[int]
    readings: _containers.RepeatedCompositeFieldContainer[Reading]
    def __init__(self, readings: _Optional[_Iterable[_Union[Reading, _Mapping[str, _Any]]]] = ...) -> None: ...

class ProgressResponse(_message.Message):
    __slots__ = ("again_ms",)
    AGAIN_MS_FIELD_NUMBER: _ClassVar[int]
    again_ms: int
    def __init__(self, again_ms: _Optional[int] = ...) -> None: ...
