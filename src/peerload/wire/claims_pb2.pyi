from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import Any as _Any, ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Claim(_message.Message):
    __slots__ = ("name", "holder", "note", "token", "lease_ms", "left_ms", "since")
    NAME_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    LEASE_MS_FIELD_NUMBER: _ClassVar[int]
    LEFT_MS_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    name: str
    holder: str
    note: str
    token: int
    lease_ms: int
    left_ms: int
    since: int
    def __init__(self, name: _Optional[str] = ..., holder: _Optional[str] = ..., note: _Optional[str] = ..., token: _Optional[int] = ..., lease_ms: _Optional[int] = ..., left_ms: _Optional[int] = ..., since: _Optional[int] = ...) -> None: ...

class AcquireClaimRequest(_message.Message):
    __slots__ = ("name", "holder", "lease_ms", "note")
    NAME_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    LEASE_MS_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    name: str
    holder: str
    lease_ms: int
    note: str
    def __init__(self, name: _Optional[str] = ..., holder: _Optional[str] = ..., lease_ms: _Optional[int] = ..., note: _Optional[str] = ...) -> None: ...

class AcquireClaimResponse(_message.Message):
    __slots__ = ("acquired", "claim")
    ACQUIRED_FIELD_NUMBER: _ClassVar[int]
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    acquired: bool
    claim: Claim
    def __init__(self, acquired: _Optional[bool] = ..., claim: _Optional[_Union[Claim, _Mapping[str, _Any]]] = ...) -> None: ...

class RenewClaimRequest(_message.Message):
    __slots__ = ("name", "holder")
    NAME_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    name: str
    holder: str
    def __init__(self, name: _Optional[str] = ..., holder: _Optional[str] = ...) -> None: ...

class RenewClaimResponse(_message.Message):
    __slots__ = ("held", "claim")
    HELD_FIELD_NUMBER: _ClassVar[int]
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    held: bool
    claim: Claim
    def __init__(self, held: _Optional[bool] = ..., claim: _Optional[_Union[Claim, _Mapping[str, _Any]]] = ...) -> None: ...

class ReleaseClaimRequest(_message.Message):
    __slots__ = ("name", "holder")
    NAME_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    name: str
    holder: str
    def __init__(self, name: _Optional[str] = ..., holder: _Optional[str] = ...) -> None: ...

class ReleaseClaimResponse(_message.Message):
    __slots__ = ("released",)
    RELEASED_FIELD_NUMBER: _ClassVar[int]
    released: bool
    def __init__(self, released: _Optional[bool] = ...) -> None: ...
