from peerload.wire import p2p_pb2 as _p2p_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import Any as _Any, ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Form(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FORM_UNSPECIFIED: _ClassVar[Form]
    FORM_RUNTIME: _ClassVar[Form]
    FORM_CHECKPOINT: _ClassVar[Form]
FORM_UNSPECIFIED: Form
FORM_RUNTIME: Form
FORM_CHECKPOINT: Form

class Manifest(_message.Message):
    __slots__ = ("form", "items", "files", "endpoints", "content", "refs", "part")
    FORM_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    REFS_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    form: Form
    items: _containers.RepeatedCompositeFieldContainer[Item]
    files: _containers.RepeatedCompositeFieldContainer[File]
    endpoints: _containers.RepeatedCompositeFieldContainer[Endpoint]
    content: str
    refs: _containers.RepeatedScalarFieldContainer[str]
    part: str
    def __init__(self, form: _Optional[_Union[Form, str]] = ..., items: _Optional[_Iterable[_Union[Item, _Mapping[str, _Any]]]] = ..., files: _Optional[_Iterable[_Union[File, _Mapping[str, _Any]]]] = ..., endpoints: _Optional[_Iterable[_Union[Endpoint, _Mapping[str, _Any]]]] = ..., content: _Optional[str] = ..., refs: _Optional[_Iterable[str]] = ..., part: _Optional[str] = ...) -> None: ...

class Item(_message.Message):
    __slots__ = ("name", "size", "dtype", "shape", "stride", "digest", "region", "offset", "file", "device")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    STRIDE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    name: str
    size: int
    dtype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    stride: _containers.RepeatedScalarFieldContainer[int]
    digest: bytes
    region: int
    offset: int
    file: int
    device: int
    def __init__(self, name: _Optional[str] = ..., size: _Optional[int] = ..., dtype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., stride: _Optional[_Iterable[int]] = ..., digest: _Optional[bytes] = ..., region: _Optional[int] = ..., offset: _Optional[int] = ..., file: _Optional[int] = ..., device: _Optional[int] = ...) -> None: ...

class File(_message.Message):
    __slots__ = ("path", "size", "header", "digest", "blob")
    PATH_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    HEADER_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    BLOB_FIELD_NUMBER: _ClassVar[int]
    path: str
    size: int
    header: bytes
    digest: bytes
    blob: str
    def __init__(self, path: _Optional[str] = ..., size: _Optional[int] = ..., header: _Optional[bytes] = ..., digest: _Optional[bytes] = ..., blob: _Optional[str] = ...) -> None: ...

class Endpoint(_message.Message):
    __slots__ = ("engine", "address", "descriptor")
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTOR_FIELD_NUMBER: _ClassVar[int]
    engine: str
    address: str
    descriptor: bytes
    def __init__(self, engine: _Optional[str] = ..., address: _Optional[str] = ..., descriptor: _Optional[bytes] = ...) -> None: ...

class PublishRequest(_message.Message):
    __slots__ = ("record", "manifest", "replica", "world_size")
    RECORD_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    WORLD_SIZE_FIELD_NUMBER: _ClassVar[int]
    record: _p2p_pb2.PublishMetadataRequest
    manifest: Manifest
    replica: str
    world_size: int
    def __init__(self, record: _Optional[_Union[_p2p_pb2.PublishMetadataRequest, _Mapping[str, _Any]]] = ..., manifest: _Optional[_Union[Manifest, _Mapping[str, _Any]]] = ..., replica: _Optional[str] = ..., world_size: _Optional[int] = ...) -> None: ...

class PublishResponse(_message.Message):
    __slots__ = ("source_id", "worker_id")
    SOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    source_id: str
    worker_id: str
    def __init__(self, source_id: _Optional[str] = ..., worker_id: _Optional[str] = ...) -> None: ...

class WithdrawRequest(_message.Message):
    __slots__ = ("source_id", "worker_id", "worker_rank")
    SOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    WORKER_RANK_FIELD_NUMBER: _ClassVar[int]
    source_id: str
    worker_id: str
    worker_rank: int
    def __init__(self, source_id: _Optional[str] = ..., worker_id: _Optional[str] = ..., worker_rank: _Optional[int] = ...) -> None: ...

class WithdrawResponse(_message.Message):
    __slots__ = ("withdrawn",)
    WITHDRAWN_FIELD_NUMBER: _ClassVar[int]
    withdrawn: bool
    def __init__(self, withdrawn: _Optional[bool] = ...) -> None: ...

class GetManifestRequest(_message.Message):
    __slots__ = ("source_id", "worker_id", "worker_rank")
    SOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    WORKER_RANK_FIELD_NUMBER: _ClassVar[int]
    source_id: str
    worker_id: str
    worker_rank: int
    def __init__(self, source_id: _Optional[str] = ..., worker_id: _Optional[str] = ..., worker_rank: _Optional[int] = ...) -> None: ...

class GetManifestResponse(_message.Message):
    __slots__ = ("source", "identity", "worker", "manifest")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    source: Source
    identity: _p2p_pb2.SourceIdentity
    worker: _p2p_pb2.WorkerMetadata
    manifest: Manifest
    def __init__(self, source: _Optional[_Union[Source, _Mapping[str, _Any]]] = ..., identity: _Optional[_Union[_p2p_pb2.SourceIdentity, _Mapping[str, _Any]]] = ..., worker: _Optional[_Union[_p2p_pb2.WorkerMetadata, _Mapping[str, _Any]]] = ..., manifest: _Optional[_Union[Manifest, _Mapping[str, _Any]]] = ...) -> None: ...

class Selector(_message.Message):
    __slots__ = ("identity", "source_id", "model_name", "revision", "worker_rank", "form", "status", "worker_id")
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    SOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    WORKER_RANK_FIELD_NUMBER: _ClassVar[int]
    FORM_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    identity: _p2p_pb2.SourceIdentity
    source_id: str
    model_name: str
    revision: str
    worker_rank: int
    form: Form
    status: _p2p_pb2.SourceStatus
    worker_id: str
    def __init__(self, identity: _Optional[_Union[_p2p_pb2.SourceIdentity, _Mapping[str, _Any]]] = ..., source_id: _Optional[str] = ..., model_name: _Optional[str] = ..., revision: _Optional[str] = ..., worker_rank: _Optional[int] = ..., form: _Optional[_Union[Form, str]] = ..., status: _Optional[_Union[_p2p_pb2.SourceStatus, str]] = ..., worker_id: _Optional[str] = ...) -> None: ...

class Source(_message.Message):
    __slots__ = ("source_id", "worker_id", "worker_rank", "model_name", "revision", "status", "updated_at", "accelerator", "topology", "source_load", "training_step", "layout_signature", "form", "content", "item_count", "total_size", "engines", "pod_name", "pod_namespace", "published_at", "suspect", "replica", "world_size", "refs", "part")
    class TopologyEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    WORKER_RANK_FIELD_NUMBER: _ClassVar[int]
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    UPDATED_AT_FIELD_NUMBER: _ClassVar[int]
    ACCELERATOR_FIELD_NUMBER: _ClassVar[int]
    TOPOLOGY_FIELD_NUMBER: _ClassVar[int]
    SOURCE_LOAD_FIELD_NUMBER: _ClassVar[int]
    TRAINING_STEP_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    FORM_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    ITEM_COUNT_FIELD_NUMBER: _ClassVar[int]
    TOTAL_SIZE_FIELD_NUMBER: _ClassVar[int]
    ENGINES_FIELD_NUMBER: _ClassVar[int]
    POD_NAME_FIELD_NUMBER: _ClassVar[int]
    POD_NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_AT_FIELD_NUMBER: _ClassVar[int]
    SUSPECT_FIELD_NUMBER: _ClassVar[int]
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    WORLD_SIZE_FIELD_NUMBER: _ClassVar[int]
    REFS_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    source_id: str
    worker_id: str
    worker_rank: int
    model_name: str
    revision: str
    status: _p2p_pb2.SourceStatus
    updated_at: int
    accelerator: str
    topology: _containers.ScalarMap[str, str]
    source_load: float
    training_step: int
    layout_signature: str
    form: Form
    content: str
    item_count: int
    total_size: int
    engines: _containers.RepeatedScalarFieldContainer[str]
    pod_name: str
    pod_namespace: str
    published_at: int
    suspect: bool
    replica: str
    world_size: int
    refs: _containers.RepeatedScalarFieldContainer[str]
    part: str
    def __init__(self, source_id: _Optional[str] = ..., worker_id: _Optional[str] = ..., worker_rank: _Optional[int] = ..., model_name: _Optional[str] = ..., revision: _Optional[str] = ..., status: _Optional[_Union[_p2p_pb2.SourceStatus, str]] = ..., updated_at: _Optional[int] = ..., accelerator: _Optional[str] = ..., topology: _Optional[_Mapping[str, str]] = ..., source_load: _Optional[float] = ..., training_step: _Optional[int] = ..., layout_signature: _Optional[str] = ..., form: _Optional[_Union[Form, str]] = ..., content: _Optional[str] = ..., item_count: _Optional[int] = ..., total_size: _Optional[int] = ..., engines: _Optional[_Iterable[str]] = ..., pod_name: _Optional[str] = ..., pod_namespace: _Optional[str] = ..., published_at: _Optional[int] = ..., suspect: _Optional[bool] = ..., replica: _Optional[str] = ..., world_size: _Optional[int] = ..., refs: _Optional[_Iterable[str]] = ..., part: _Optional[str] = ...) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ("selector",)
    SELECTOR_FIELD_NUMBER: _ClassVar[int]
    selector: Selector
    def __init__(self, selector: _Optional[_Union[Selector, _Mapping[str, _Any]]] = ...) -> None: ...

class ListResponse(_message.Message):
    __slots__ = ("sources", "now")
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    NOW_FIELD_NUMBER: _ClassVar[int]
    sources: _containers.RepeatedCompositeFieldContainer[Source]
    now: int
    def __init__(self, sources: _Optional[_Iterable[_Union[Source, _Mapping[str, _Any]]]] = ..., now: _Optional[int] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("selector", "resume_token")
    SELECTOR_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    selector: Selector
    resume_token: str
    def __init__(self, selector: _Optional[_Union[Selector, _Mapping[str, _Any]]] = ..., resume_token: _Optional[str] = ...) -> None: ...

class WatchResponse(_message.Message):
    __slots__ = ("complete", "present", "gone", "resume_token", "now")
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    PRESENT_FIELD_NUMBER: _ClassVar[int]
    GONE_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    NOW_FIELD_NUMBER: _ClassVar[int]
    complete: bool
    present: _containers.RepeatedCompositeFieldContainer[Source]
    gone: _containers.RepeatedCompositeFieldContainer[SourceRef]
    resume_token: str
    now: int
    def __init__(self, complete: _Optional[bool] = ..., present: _Optional[_Iterable[_Union[Source, _Mapping[str, _Any]]]] = ..., gone: _Optional[_Iterable[_Union[SourceRef, _Mapping[str, _Any]]]] = ..., resume_token: _Optional[str] = ..., now: _Optional[int] = ...) -> None: ...

class SourceRef(_message.Message):
    __slots__ = ("source_id", "worker_id", "worker_rank")
    SOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    WORKER_RANK_FIELD_NUMBER: _ClassVar[int]
    source_id: str
    worker_id: str
    worker_rank: int
    def __init__(self, source_id: _Optional[str] = ..., worker_id: _Optional[str] = ..., worker_rank: _Optional[int] = ...) -> None: ...
