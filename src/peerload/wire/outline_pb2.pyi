from peerload.wire import p2p_pb2 as _p2p_pb2
from peerload.wire import sources_pb2 as _sources_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import Any as _Any, ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PublishMetadataRequest(_message.Message):
    __slots__ = ("identity", "worker", "worker_id", "pod_name", "pod_uid", "pod_namespace")
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    POD_NAME_FIELD_NUMBER: _ClassVar[int]
    POD_UID_FIELD_NUMBER: _ClassVar[int]
    POD_NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    identity: _p2p_pb2.SourceIdentity
    worker: WorkerMetadata
    worker_id: str
    pod_name: str
    pod_uid: str
    pod_namespace: str
    def __init__(self, identity: _Optional[_Union[_p2p_pb2.SourceIdentity, _Mapping[str, _Any]]] = ..., worker: _Optional[_Union[WorkerMetadata, _Mapping[str, _Any]]] = ..., worker_id: _Optional[str] = ..., pod_name: _Optional[str] = ..., pod_uid: _Optional[str] = ..., pod_namespace: _Optional[str] = ...) -> None: ...

class WorkerMetadata(_message.Message):
    __slots__ = ("worker_rank", "nixl_metadata", "transfer_engine_session_id", "tensors", "status", "updated_at", "metadata_endpoint", "agent_name", "worker_grpc_endpoint", "accelerator", "topology", "tensor_source", "artifact_source")
    class TopologyEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    WORKER_RANK_FIELD_NUMBER: _ClassVar[int]
    NIXL_METADATA_FIELD_NUMBER: _ClassVar[int]
    TRANSFER_ENGINE_SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    UPDATED_AT_FIELD_NUMBER: _ClassVar[int]
    METADATA_ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    AGENT_NAME_FIELD_NUMBER: _ClassVar[int]
    WORKER_GRPC_ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    ACCELERATOR_FIELD_NUMBER: _ClassVar[int]
    TOPOLOGY_FIELD_NUMBER: _ClassVar[int]
    TENSOR_SOURCE_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_SOURCE_FIELD_NUMBER: _ClassVar[int]
    worker_rank: int
    nixl_metadata: bytes
    transfer_engine_session_id: str
    tensors: _containers.RepeatedScalarFieldContainer[bytes]
    status: _p2p_pb2.SourceStatus
    updated_at: int
    metadata_endpoint: str
    agent_name: str
    worker_grpc_endpoint: str
    accelerator: str
    topology: _containers.ScalarMap[str, str]
    tensor_source: TensorSourceMetadata
    artifact_source: _p2p_pb2.ArtifactSourceMetadata
    def __init__(self, worker_rank: _Optional[int] = ..., nixl_metadata: _Optional[bytes] = ..., transfer_engine_session_id: _Optional[str] = ..., tensors: _Optional[_Iterable[bytes]] = ..., status: _Optional[_Union[_p2p_pb2.SourceStatus, str]] = ..., updated_at: _Optional[int] = ..., metadata_endpoint: _Optional[str] = ..., agent_name: _Optional[str] = ..., worker_grpc_endpoint: _Optional[str] = ..., accelerator: _Optional[str] = ..., topology: _Optional[_Mapping[str, str]] = ..., tensor_source: _Optional[_Union[TensorSourceMetadata, _Mapping[str, _Any]]] = ..., artifact_source: _Optional[_Union[_p2p_pb2.ArtifactSourceMetadata, _Mapping[str, _Any]]] = ...) -> None: ...

class TensorSourceMetadata(_message.Message):
    __slots__ = ("tensors",)
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    tensors: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, tensors: _Optional[_Iterable[bytes]] = ...) -> None: ...

class PublishRequest(_message.Message):
    __slots__ = ("record", "manifest", "replica", "world_size")
    RECORD_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    WORLD_SIZE_FIELD_NUMBER: _ClassVar[int]
    record: PublishMetadataRequest
    manifest: Manifest
    replica: str
    world_size: int
    def __init__(self, record: _Optional[_Union[PublishMetadataRequest, _Mapping[str, _Any]]] = ..., manifest: _Optional[_Union[Manifest, _Mapping[str, _Any]]] = ..., replica: _Optional[str] = ..., world_size: _Optional[int] = ...) -> None: ...

class Manifest(_message.Message):
    __slots__ = ("form", "items", "files", "endpoints", "content", "refs", "part")
    FORM_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    REFS_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    form: _sources_pb2.Form
    items: _containers.RepeatedScalarFieldContainer[bytes]
    files: _containers.RepeatedCompositeFieldContainer[_sources_pb2.File]
    endpoints: _containers.RepeatedCompositeFieldContainer[_sources_pb2.Endpoint]
    content: str
    refs: _containers.RepeatedScalarFieldContainer[str]
    part: str
    def __init__(self, form: _Optional[_Union[_sources_pb2.Form, str]] = ..., items: _Optional[_Iterable[bytes]] = ..., files: _Optional[_Iterable[_Union[_sources_pb2.File, _Mapping[str, _Any]]]] = ..., endpoints: _Optional[_Iterable[_Union[_sources_pb2.Endpoint, _Mapping[str, _Any]]]] = ..., content: _Optional[str] = ..., refs: _Optional[_Iterable[str]] = ..., part: _Optional[str] = ...) -> None: ...

class Elements(_message.Message):
    __slots__ = ("elements",)
    ELEMENTS_FIELD_NUMBER: _ClassVar[int]
    elements: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, elements: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Tensors(_message.Message):
    __slots__ = ("elements",)
    ELEMENTS_FIELD_NUMBER: _ClassVar[int]
    elements: TensorColumns
    def __init__(self, elements: _Optional[_Union[TensorColumns, _Mapping[str, _Any]]] = ...) -> None: ...

class TensorColumns(_message.Message):
    __slots__ = ("name", "size", "dtype")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    name: _containers.RepeatedScalarFieldContainer[str]
    size: _containers.RepeatedScalarFieldContainer[int]
    dtype: str
    def __init__(self, name: _Optional[_Iterable[str]] = ..., size: _Optional[_Iterable[int]] = ..., dtype: _Optional[str] = ...) -> None: ...

class ItemList(_message.Message):
    __slots__ = ("elements",)
    ELEMENTS_FIELD_NUMBER: _ClassVar[int]
    elements: _containers.RepeatedCompositeFieldContainer[_sources_pb2.Item]
    def __init__(self, elements: _Optional[_Iterable[_Union[_sources_pb2.Item, _Mapping[str, _Any]]]] = ...) -> None: ...

class Items(_message.Message):
    __slots__ = ("elements",)
    ELEMENTS_FIELD_NUMBER: _ClassVar[int]
    elements: ItemColumns
    def __init__(self, elements: _Optional[_Union[ItemColumns, _Mapping[str, _Any]]] = ...) -> None: ...

class ItemColumns(_message.Message):
    __slots__ = ("name", "size", "dtype", "shape", "stride", "digest", "file")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    STRIDE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    name: _containers.RepeatedScalarFieldContainer[str]
    size: _containers.RepeatedScalarFieldContainer[int]
    dtype: str
    shape: _containers.RepeatedScalarFieldContainer[bytes]
    stride: _containers.RepeatedScalarFieldContainer[bytes]
    digest: _containers.RepeatedScalarFieldContainer[bytes]
    file: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[_Iterable[str]] = ..., size: _Optional[_Iterable[int]] = ..., dtype: _Optional[str] = ..., shape: _Optional[_Iterable[bytes]] = ..., stride: _Optional[_Iterable[bytes]] = ..., digest: _Optional[_Iterable[bytes]] = ..., file: _Optional[_Iterable[int]] = ...) -> None: ...

class GetManifestResponse(_message.Message):
    __slots__ = ("source", "identity", "worker", "manifest")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    source: _sources_pb2.Source
    identity: _p2p_pb2.SourceIdentity
    worker: _p2p_pb2.WorkerMetadata
    manifest: Manifest
    def __init__(self, source: _Optional[_Union[_sources_pb2.Source, _Mapping[str, _Any]]] = ..., identity: _Optional[_Union[_p2p_pb2.SourceIdentity, _Mapping[str, _Any]]] = ..., worker: _Optional[_Union[_p2p_pb2.WorkerMetadata, _Mapping[str, _Any]]] = ..., manifest: _Optional[_Union[Manifest, _Mapping[str, _Any]]] = ...) -> None: ...

class ExplicitItems(_message.Message):
    __slots__ = ("elements",)
    ELEMENTS_FIELD_NUMBER: _ClassVar[int]
    elements: _containers.RepeatedCompositeFieldContainer[ExplicitItem]
    def __init__(self, elements: _Optional[_Iterable[_Union[ExplicitItem, _Mapping[str, _Any]]]] = ...) -> None: ...

class ExplicitItem(_message.Message):
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

class WholeItems(_message.Message):
    __slots__ = ("elements",)
    ELEMENTS_FIELD_NUMBER: _ClassVar[int]
    elements: WholeColumns
    def __init__(self, elements: _Optional[_Union[WholeColumns, _Mapping[str, _Any]]] = ...) -> None: ...

class WholeColumns(_message.Message):
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
    name: _containers.RepeatedScalarFieldContainer[str]
    size: _containers.RepeatedScalarFieldContainer[int]
    dtype: _containers.RepeatedScalarFieldContainer[str]
    shape: _containers.RepeatedScalarFieldContainer[bytes]
    stride: _containers.RepeatedScalarFieldContainer[bytes]
    digest: _containers.RepeatedScalarFieldContainer[bytes]
    region: _containers.RepeatedScalarFieldContainer[int]
    offset: _containers.RepeatedScalarFieldContainer[int]
    file: _containers.RepeatedScalarFieldContainer[int]
    device: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[_Iterable[str]] = ..., size: _Optional[_Iterable[int]] = ..., dtype: _Optional[_Iterable[str]] = ..., shape: _Optional[_Iterable[bytes]] = ..., stride: _Optional[_Iterable[bytes]] = ..., digest: _Optional[_Iterable[bytes]] = ..., region: _Optional[_Iterable[int]] = ..., offset: _Optional[_Iterable[int]] = ..., file: _Optional[_Iterable[int]] = ..., device: _Optional[_Iterable[int]] = ...) -> None: ...
