from peerload.wire import p2p_pb2 as _p2p_pb2
from peerload.wire import sources_pb2 as _sources_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import Any as _Any, ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ExplainRequest(_message.Message):
    __slots__ = ("model_name", "source_id", "identity", "limit")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    SOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    source_id: str
    identity: _p2p_pb2.SourceIdentity
    limit: int
    def __init__(self, model_name: _Optional[str] = ..., source_id: _Optional[str] = ..., identity: _Optional[_Union[_p2p_pb2.SourceIdentity, _Mapping[str, _Any]]] = ..., limit: _Optional[int] = ...) -> None: ...

class ExplainResponse(_message.Message):
    __slots__ = ("misses", "misses_total", "live", "sources", "sources_total", "unanswered", "server", "listen", "since", "now")
    MISSES_FIELD_NUMBER: _ClassVar[int]
    MISSES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    LIVE_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    SOURCES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    UNANSWERED_FIELD_NUMBER: _ClassVar[int]
    SERVER_FIELD_NUMBER: _ClassVar[int]
    LISTEN_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    NOW_FIELD_NUMBER: _ClassVar[int]
    misses: _containers.RepeatedCompositeFieldContainer[Miss]
    misses_total: int
    live: Verdict
    sources: _containers.RepeatedCompositeFieldContainer[_sources_pb2.Source]
    sources_total: int
    unanswered: Unanswered
    server: str
    listen: str
    since: int
    now: int
    def __init__(self, misses: _Optional[_Iterable[_Union[Miss, _Mapping[str, _Any]]]] = ..., misses_total: _Optional[int] = ..., live: _Optional[_Union[Verdict, _Mapping[str, _Any]]] = ..., sources: _Optional[_Iterable[_Union[_sources_pb2.Source, _Mapping[str, _Any]]]] = ..., sources_total: _Optional[int] = ..., unanswered: _Optional[_Union[Unanswered, _Mapping[str, _Any]]] = ..., server: _Optional[str] = ..., listen: _Optional[str] = ..., since: _Optional[int] = ..., now: _Optional[int] = ...) -> None: ...

class Miss(_message.Message):
    __slots__ = ("verdict", "first", "last", "count", "peers", "peer_count", "more_peers", "call", "asked")
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    PEER_COUNT_FIELD_NUMBER: _ClassVar[int]
    MORE_PEERS_FIELD_NUMBER: _ClassVar[int]
    CALL_FIELD_NUMBER: _ClassVar[int]
    ASKED_FIELD_NUMBER: _ClassVar[int]
    verdict: Verdict
    first: int
    last: int
    count: int
    peers: _containers.RepeatedScalarFieldContainer[str]
    peer_count: int
    more_peers: bool
    call: str
    asked: _containers.RepeatedCompositeFieldContainer[Asked]
    def __init__(self, verdict: _Optional[_Union[Verdict, _Mapping[str, _Any]]] = ..., first: _Optional[int] = ..., last: _Optional[int] = ..., count: _Optional[int] = ..., peers: _Optional[_Iterable[str]] = ..., peer_count: _Optional[int] = ..., more_peers: _Optional[bool] = ..., call: _Optional[str] = ..., asked: _Optional[_Iterable[_Union[Asked, _Mapping[str, _Any]]]] = ...) -> None: ...

class Asked(_message.Message):
    __slots__ = ("field", "key", "value")
    FIELD_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    field: str
    key: str
    value: str
    def __init__(self, field: _Optional[str] = ..., key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...

class Verdict(_message.Message):
    __slots__ = ("findings", "nearest_source_id", "nearest_model", "matches", "text")
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    NEAREST_SOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    NEAREST_MODEL_FIELD_NUMBER: _ClassVar[int]
    MATCHES_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    findings: _containers.RepeatedCompositeFieldContainer[Finding]
    nearest_source_id: str
    nearest_model: str
    matches: int
    text: str
    def __init__(self, findings: _Optional[_Iterable[_Union[Finding, _Mapping[str, _Any]]]] = ..., nearest_source_id: _Optional[str] = ..., nearest_model: _Optional[str] = ..., matches: _Optional[int] = ..., text: _Optional[str] = ...) -> None: ...

class Finding(_message.Message):
    __slots__ = ("field", "key", "asked", "have", "text")
    FIELD_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    ASKED_FIELD_NUMBER: _ClassVar[int]
    HAVE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    field: str
    key: str
    asked: str
    have: _containers.RepeatedScalarFieldContainer[str]
    text: str
    def __init__(self, field: _Optional[str] = ..., key: _Optional[str] = ..., asked: _Optional[str] = ..., have: _Optional[_Iterable[str]] = ..., text: _Optional[str] = ...) -> None: ...

class Unanswered(_message.Message):
    __slots__ = ("count", "first", "last", "reason")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    count: int
    first: int
    last: int
    reason: str
    def __init__(self, count: _Optional[int] = ..., first: _Optional[int] = ..., last: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...
