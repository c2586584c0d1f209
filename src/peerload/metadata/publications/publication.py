"""What a worker publishes: checked once, kept as it was encoded."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from peerload.errors import InvalidArgument, LimitExceeded, MissingField
from peerload.metadata import limits
from peerload.metadata.limits import check_count, check_text
from peerload.metadata.publications.addresses import endpoints_of
from peerload.metadata.publications.decoding import decoded
from peerload.metadata.publications.elements import check_items, check_names, check_tensors, check_total, same
from peerload.metadata.records import NO_POD, Form, Pod, SourceKey, SourceRecord, Status
from peerload.wire import outline_pb2, p2p_pb2, sources_pb2, splice
from peerload.wire.identity import source_id

__all__ = ["Publication", "training_step"]

_IDENTITY_FIELD: Final = 1
_WORKER_FIELD: Final = 2
_RECORD_FIELD: Final = 1
_MANIFEST_FIELD: Final = 2
_DIGEST_SIZES: Final = (0, 16)
_MAX_UINT64: Final = 2**64 - 1
_REMEMBERED_BYTES: Final = 2048
"""Identities up to this size are remembered with their source ids: the replicas of a fleet send the same one."""


@dataclass(frozen=True, slots=True)
class Publication:
    """A checked publication: the record to keep (its stamps are 0 until it is stored) and the bytes as they arrived."""

    record: SourceRecord
    identity: bytes
    """An encoded SourceIdentity."""
    worker: bytes
    """An encoded WorkerMetadata."""
    manifest: bytes | None
    """An encoded peerload.v1.Manifest; None where the worker published through model_express.p2p."""

    @property
    def key(self) -> SourceKey:
        return self.record.key

    @classmethod
    def from_p2p(cls, request: bytes, *, most_tensors: int = limits.MAX_TENSORS) -> Publication:
        """Check an encoded `PublishMetadataRequest`.

        Raises `MissingField` without identity, model name, worker or worker id, `LimitExceeded` and `InvalidArgument`
        for the rest; each names the field. `most_tensors` may be in one list. Takes milliseconds for ten thousand tensors: large ones belong in a thread.
        """
        message = decoded(outline_pb2.PublishMetadataRequest, request)
        return _checked(message, request, None, None, most_tensors)

    @classmethod
    def from_v1(cls, request: bytes, *, most_tensors: int = limits.MAX_TENSORS) -> Publication:
        """Check an encoded `peerload.v1.PublishRequest`; as `from_p2p`, and the manifest must be there."""
        message = decoded(outline_pb2.PublishRequest, request)
        record = splice.submessage(request, _RECORD_FIELD)
        if record is None:
            raise MissingField("record")
        manifest = splice.submessage(request, _MANIFEST_FIELD)
        if manifest is None:
            raise MissingField("manifest")
        check_text("replica", message.replica, limits.MAX_TEXT_BYTES)
        check_count("world_size", message.world_size, limits.MAX_WORLD_SIZE, "ranks")
        checked = _checked(message.record, record, message.manifest, manifest, most_tensors)
        size = message.world_size or checked.record.world_size
        return replace(checked, record=checked.record._replace(replica=message.replica, world_size=size))

    @classmethod
    def of(
        cls,
        identity: p2p_pb2.SourceIdentity,
        worker: p2p_pb2.WorkerMetadata,
        worker_id: str,
        *,
        pod: Pod = NO_POD,
        manifest: sources_pb2.Manifest | None = None,
    ) -> Publication:
        """A publication from messages; raises as `from_p2p`."""
        record = p2p_pb2.PublishMetadataRequest(
            identity=identity,
            worker=worker,
            worker_id=worker_id,
            pod_name=pod.name,
            pod_uid=pod.uid,
            pod_namespace=pod.namespace,
        )
        if manifest is None:
            return cls.from_p2p(record.SerializeToString())
        return cls.from_v1(sources_pb2.PublishRequest(record=record, manifest=manifest).SerializeToString())


def training_step(parameters: Iterable[tuple[str, str]]) -> int | None:
    """The training step among extra_parameters: "training_step", or "version" where that key is absent; a decimal
    uint64. What is malformed counts as not given."""
    given = dict(parameters)
    text = given["training_step"] if "training_step" in given else given.get("version", "")
    if not (text.isascii() and text.isdecimal()):
        return None
    digits = text.lstrip("0") or "0"
    # The length first: Python refuses to convert thousands of digits.
    if len(digits) > 20 or int(digits) > _MAX_UINT64:
        return None
    return int(digits)


def _checked(
    request: outline_pb2.PublishMetadataRequest,
    encoded: bytes,
    manifest: outline_pb2.Manifest | None,
    encoded_manifest: bytes | None,
    most_tensors: int,
) -> Publication:
    most = limits.MAX_MESSAGE_BYTES - limits.ANSWER_BYTES
    if len(encoded) + len(encoded_manifest or b"") > most:
        raise LimitExceeded("request", f"is larger than {most} bytes", limit=most)
    identity_bytes = splice.submessage(encoded, _IDENTITY_FIELD)
    worker_bytes = splice.submessage(encoded, _WORKER_FIELD)
    if identity_bytes is None:
        raise MissingField("identity")
    if not request.identity.model_name:
        raise MissingField("identity.model_name")
    if worker_bytes is None:
        raise MissingField("worker")
    if not request.worker_id:
        raise MissingField("worker_id")
    identity, worker = request.identity, request.worker
    _check_identity(identity, len(identity_bytes))
    check_text("worker_id", request.worker_id, limits.MAX_WORKER_ID_BYTES)
    pod = Pod(request.pod_name, request.pod_uid, request.pod_namespace)
    for name, text in zip(("pod_name", "pod_uid", "pod_namespace"), pod, strict=True):
        check_text(name, text, limits.MAX_TEXT_BYTES)
    status = Status.of(worker.status, "worker.status")
    check_text("worker.accelerator", worker.accelerator, limits.MAX_TEXT_BYTES)
    check_count("worker.topology", len(worker.topology), limits.MAX_TOPOLOGY, "entries")
    for level, place in worker.topology.items():
        check_text("worker.topology", level, limits.MAX_TEXT_BYTES)
        check_text(f"worker.topology[{level}]", place, limits.MAX_TEXT_BYTES)
    together = "".join([level + place for level, place in worker.topology.items()])
    check_text("worker.topology", together, limits.MAX_TOPOLOGY_BYTES)
    parameters = dict(identity.extra_parameters)
    layout = parameters.get("layout_signature", "")
    check_text("identity.extra_parameters[layout_signature]", layout, limits.MAX_NAME_BYTES)
    item_count, total_size = _tensors(worker, most_tensors)
    form, content = Form.UNSPECIFIED, ""
    engines: tuple[str, ...] = ()
    refs: tuple[str, ...] = ()
    part = ""
    named = parameters.get("peerload.form", "").upper()
    if named in Form.__members__:
        form = Form[named]
    if manifest is not None:
        item_count, total_size, engines = _check_manifest(manifest, most_tensors)
        form, content = Form(manifest.form), manifest.content
        refs, part = tuple(manifest.refs), manifest.part
    record = SourceRecord(
        key=SourceKey(_source_id(identity, identity_bytes), worker.worker_rank, request.worker_id),
        model_name=identity.model_name,
        revision=identity.revision,
        status=status,
        updated_at=0,
        load=None,
        accelerator=worker.accelerator,
        topology=tuple(sorted(worker.topology.items())),
        training_step=training_step(parameters.items()),
        layout_signature=layout or None,
        form=form,
        content=content,
        item_count=item_count,
        total_size=total_size,
        engines=engines,
        pod=pod,
        published_at=0,
        endpoints=endpoints_of(worker, manifest),
        world_size=_world_size(identity, worker.worker_rank),
        refs=refs,
        part=part,
    )
    return Publication(record, identity_bytes, worker_bytes, encoded_manifest)


def _source_id(identity: p2p_pb2.SourceIdentity, encoded: bytes) -> str:
    return _remembered(encoded) if len(encoded) <= _REMEMBERED_BYTES else source_id(identity)


@lru_cache(maxsize=1024)
def _remembered(encoded: bytes) -> str:
    return sys.intern(source_id(p2p_pb2.SourceIdentity.FromString(encoded)))


def _check_identity(identity: p2p_pb2.SourceIdentity, size: int) -> None:
    check_text("identity.model_name", identity.model_name, limits.MAX_NAME_BYTES)
    check_text("identity.revision", identity.revision, limits.MAX_TEXT_BYTES)
    if size > limits.MAX_IDENTITY_BYTES:
        limit = limits.MAX_IDENTITY_BYTES
        raise LimitExceeded("identity", f"has {size} bytes, more than {limit}", limit=limit)


def _world_size(identity: p2p_pb2.SourceIdentity, rank: int) -> int:
    """How many ranks a replica has as far as its identity tells; 0 where it does not, or has no such rank."""
    size = identity.tensor_parallel_size * identity.pipeline_parallel_size
    return size if rank < size <= limits.MAX_WORLD_SIZE else 0


def _tensors(worker: outline_pb2.WorkerMetadata, most: int) -> tuple[int, int]:
    """How many items a stock publication has, and their bytes."""
    if worker.WhichOneof("source_payload") == "artifact_source":
        artifact = worker.artifact_source
        check_tensors("worker.tensors", worker.tensors, most)
        check_total("worker.artifact_source.total_size", artifact.total_size)
        return artifact.file_count, artifact.total_size
    # Stock clients send one list twice, in an older and in a newer field: that is no duplicate.
    older, newer = worker.tensors, worker.tensor_source.tensors
    total = check_tensors("worker.tensor_source.tensors", newer, most)
    if not older or same(older, newer):
        return len(newer), total
    alone = check_tensors("worker.tensors", older, most)
    return (len(newer), total) if newer else (len(older), alone)


def _check_manifest(manifest: outline_pb2.Manifest, most: int) -> tuple[int, int, tuple[str, ...]]:
    """The manifest's item count, total size and engines."""
    if manifest.form not in Form._value2member_map_:
        raise InvalidArgument("manifest.form", f"{manifest.form} is not a Form")
    items, files = manifest.items, manifest.files
    check_text("manifest.content", manifest.content, limits.MAX_TEXT_BYTES)
    check_count("manifest.files", len(files), limits.MAX_FILES, "files")
    check_count("manifest.endpoints", len(manifest.endpoints), limits.MAX_ENDPOINTS, "endpoints")
    total = check_items("manifest.items", items, len(files), most)
    check_names("manifest.files", "path", [file.path for file in files])
    for index, file in enumerate(files):
        if not file.path:
            raise MissingField(f"manifest.files[{index}].path")
        if len(file.digest) not in _DIGEST_SIZES:
            raise InvalidArgument("manifest.files.digest", f"of {file.path!r} has {len(file.digest)} bytes, not 16")
        check_text("manifest.files.blob", file.blob, limits.MAX_TEXT_BYTES)
    check_count("manifest.refs", len(manifest.refs), limits.MAX_REFS, "names")
    for ref in manifest.refs:
        if not ref.isprintable():
            raise InvalidArgument("manifest.refs", f"{ascii(ref)[:200]} has a control character")
    check_text("manifest.refs", "".join(manifest.refs), limits.MAX_REFS_BYTES)
    check_text("manifest.part", manifest.part, limits.MAX_NAME_BYTES)
    for index, endpoint in enumerate(manifest.endpoints):
        if not endpoint.engine:
            raise MissingField(f"manifest.endpoints[{index}].engine")
        if "," in endpoint.engine:
            raise InvalidArgument(f"manifest.endpoints[{index}].engine", "must not hold a comma")
        check_text("manifest.endpoints.engine", endpoint.engine, limits.MAX_TEXT_BYTES)
        check_text("manifest.endpoints.address", endpoint.address, limits.MAX_NAME_BYTES)
    engines = tuple(dict.fromkeys(endpoint.engine for endpoint in manifest.endpoints))
    check_text("manifest.endpoints.engine", ",".join(engines), limits.MAX_NAME_BYTES)
    return len(items), total, engines
