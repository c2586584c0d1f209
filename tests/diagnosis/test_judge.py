"""What is found to stand in the way: every field of an identity, every filter, and names that were meant."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from peerload.metadata.query import Query
from peerload.metadata.records import Form, SourceKey, Status
from peerload.server.diagnosis.finding import FIELDS, IDENTITY_FIELDS, Finding
from peerload.server.diagnosis.judge import Judge
from peerload.server.diagnosis.question import Question
from peerload.testing.fake_backend import FakeMetadataBackend
from peerload.wire import p2p_pb2, sources_pb2
from peerload.wire.identity import source_id
from tests.diagnosis.questions import FULL, asking, identity, worker

OTHER: dict[str, tuple[Any, str, str]] = {
    "mx_version": ("0.6.1", "0.6.1", "0.7.0"),
    "mx_source_type": (p2p_pb2.MX_SOURCE_TYPE_LORA, "LORA", "WEIGHTS"),
    "model_name": ("/mnt/a/Llama-3-8B", "/mnt/a/Llama-3-8B", "org/Llama-3-8B"),
    "backend_framework": (p2p_pb2.BACKEND_FRAMEWORK_SGLANG, "SGLANG", "VLLM"),
    "tensor_parallel_size": (4, "4", "8"),
    "pipeline_parallel_size": (2, "2", "1"),
    "expert_parallel_size": (3, "3", "0"),
    "dtype": ("float16", "float16", "bfloat16"),
    "quantization": ("awq", "awq", "fp8"),
    "extra_parameters": ({"kv_cache": "fp8"}, "fp8", "auto"),
    "revision": ("v2", "v2", "main"),
    "backend_framework_version": ("0.12.0", "0.12.0", "0.11.0"),
    "torch_version": ("2.10.0", "2.10.0", "2.9.0"),
    "cuda_version": ("13.0", "13.0", "12.8"),
    "triton_version": ("3.5", "3.5", "3.4"),
    "gpu_arch": ("sm100", "sm100", "sm90"),
    "compile_config_digest": ("decaf", "decaf", "c0ffee"),
}


def test_no_field_is_left_out() -> None:
    fields = {field.name for field in p2p_pb2.SourceIdentity.DESCRIPTOR.fields}
    assert set(OTHER) == set(FULL) == set(IDENTITY_FIELDS) == fields


@pytest.mark.parametrize("field", OTHER)
async def test_each_field_of_an_identity(backend: FakeMetadataBackend, judge: Judge, field: str) -> None:
    source = await backend.publish_metadata(identity(), worker(), "w")
    value, asked, have = OTHER[field]
    verdict = await judge.judge(asking(identity(**{field: value})))
    key = "kv_cache" if field == "extra_parameters" else ""
    assert verdict.findings == (Finding(field, asked, (have,), key),)
    assert (verdict.source_id, verdict.model, verdict.matches) == (source, "org/Llama-3-8B", 0)
    name = f"{field}[{key}]" if key else field
    assert verdict.text == f"no match: {name} {asked}, sources have {have}"


@pytest.mark.parametrize("field", [name for name in FULL if isinstance(FULL[name], str) and name != "model_name"])
async def test_a_field_that_one_side_leaves_empty(backend: FakeMetadataBackend, judge: Judge, field: str) -> None:
    await backend.publish_metadata(identity(), worker(), "w")
    verdict = await judge.judge(asking(identity(**{field: ""})))
    assert verdict.findings == (Finding(field, None, (FULL[field],)),)
    await backend.publish_metadata(identity(model_name="org/other", **{field: ""}), worker(), "w")
    verdict = await judge.judge(asking(identity(model_name="org/other")))
    assert verdict.findings == (Finding(field, FULL[field], (None,)),)
    assert verdict.text.endswith("sources have (none)")


@pytest.mark.parametrize(
    ("asked", "published", "finding"),
    [
        ({"a": "1"}, {}, Finding("extra_parameters", "1", (None,), "a")),
        ({}, {"A": "1"}, Finding("extra_parameters", None, ("1",), "A")),
        ({"a": ""}, {}, Finding("extra_parameters", "", (None,), "a")),
        ({"a": "1"}, {"a": "2"}, Finding("extra_parameters", "1", ("2",), "a")),
        ({"hf_token": "one"}, {"hf_token": "two"}, Finding("extra_parameters", "(hidden)", ("(hidden)",), "hf_token")),
        ({"apiKey": "one"}, {}, Finding("extra_parameters", "(hidden)", (None,), "apiKey")),
        (
            {"u": "s3://me:secret@host/x"},
            {},
            Finding("extra_parameters", "s3://***@host/x", (None,), "u"),
        ),
        ({"long": "x" * 65}, {}, Finding("extra_parameters", "(too long to keep)", (None,), "long")),
        (
            {"long": "x" * 200_000},
            {"long": "x" * 199_999 + "y"},
            Finding("extra_parameters", "(too long to keep)", ("(too long to keep)",), "long"),
        ),
    ],
)
async def test_extra_parameters(
    backend: FakeMetadataBackend, judge: Judge, asked: dict[str, str], published: dict[str, str], finding: Finding
) -> None:
    await backend.publish_metadata(identity(extra_parameters=published), worker(), "w")
    assert (await judge.judge(asking(identity(extra_parameters=asked)))).findings == (finding,)


async def test_what_the_source_id_does_not_see_is_no_difference(backend: FakeMetadataBackend, judge: Judge) -> None:
    await backend.publish_metadata(identity(extra_parameters={"A": "X", "a": "other"}), worker(), "w")
    asked = identity(
        model_name="ORG/LLAMA-3-8b", dtype="BFLOAT16", mx_version="0.6", extra_parameters={"a": "x"}, gpu_arch="SM90"
    )
    assert [finding.field for finding in (await judge.judge(asking(asked))).findings] == ["mx_version"]
    asked.mx_version = "0.7.0"
    verdict = await judge.judge(asking(asked))
    assert (verdict.findings, verdict.matches) == ((), 1)


async def test_many_parameters_that_differ_are_counted(backend: FakeMetadataBackend, judge: Judge) -> None:
    await backend.publish_metadata(identity(extra_parameters={}), worker(), "w")
    verdict = await judge.judge(asking(identity(extra_parameters={f"k{index}": "v" for index in range(9_000)})))
    assert len(verdict.findings) == 17
    assert verdict.findings[-1].asked == "(8,984 more keys)"


async def test_the_form_of_weights_is_told_first(backend: FakeMetadataBackend, judge: Judge) -> None:
    checkpoint = p2p_pb2.SourceIdentity(
        model_name="org/Llama-3-8B", extra_parameters={"peerload.form": "checkpoint", "peerload.content": "c"}
    )
    await backend.publish_metadata(checkpoint, worker(), "w")
    first = (await judge.judge(asking(identity()))).findings[0]
    assert first == Finding("extra_parameters", None, ("checkpoint",), "peerload.form")


async def test_the_nearest_of_several_sources(backend: FakeMetadataBackend, judge: Judge) -> None:
    far = identity(mx_version="0.5.0", dtype="float32", revision="old")
    near = [identity(mx_version=version) for version in ("0.6.0", "0.7.0")]
    for number, each in enumerate((far, *near)):
        await backend.publish_metadata(each, worker(), f"w{number}")
    verdict = await judge.judge(asking(identity(mx_version="0.8.0")))
    assert verdict.source_id in map(source_id, near)
    (finding,) = verdict.findings
    assert (finding.field, sorted(map(str, finding.have))) == ("mx_version", ["0.6.0", "0.7.0"])


@pytest.mark.parametrize(
    ("asked", "published"),
    [
        ("/mnt/a/llama", "/models/llama"),
        ("/mnt/a/llama/", "org/llama"),
        ("/models/.cache/huggingface/hub/models--org--Llama-3/snapshots/abc", "org/Llama-3"),
        ("org/Lama-3", "org/Llama-3"),
        ("org/llama_3", "org/Llama-3"),
        ("organisation/Llama-3-8B-Instrcut", "organisation/Llama-3-8B-Instruct"),
    ],
)
async def test_names_that_were_meant(backend: FakeMetadataBackend, judge: Judge, asked: str, published: str) -> None:
    for name in ("something/else", published, "org/unlike-any"):
        await backend.publish_metadata(identity(model_name=name), worker(), "w")
    verdict = await judge.judge(asking(identity(model_name=asked)))
    assert verdict.findings == (Finding("model_name", asked, (published,)),)
    by_name = await judge.judge(asking(model_name=asked))
    assert (by_name.findings, by_name.model) == (verdict.findings, published)


async def test_a_name_by_filter_knows_case(backend: FakeMetadataBackend, judge: Judge) -> None:
    await backend.publish_metadata(identity(), worker(), "w")
    verdict = await judge.judge(asking(model_name="ORG/Llama-3-8B"))
    assert verdict.findings == (Finding("model_name", "ORG/Llama-3-8B", ("org/Llama-3-8B",)),)


@pytest.mark.parametrize("asked", ["org/b", "x", "entirely/different-one"])
async def test_names_that_nobody_meant(backend: FakeMetadataBackend, judge: Judge, asked: str) -> None:
    await backend.publish_metadata(identity(model_name="org/a"), worker(), "w")
    verdict = await judge.judge(asking(identity(model_name=asked)))
    assert verdict.text == f"no match: model_name {asked}: nobody publishes it, nor one of a similar name"
    assert verdict.field == "absent"


async def test_nothing_at_all(judge: Judge) -> None:
    assert (await judge.judge(asking())).text == "no match: there are no sources at all"
    verdict = await judge.judge(asking(source_id="5a5f555570065064"))
    assert verdict.text == "no match: source_id 5a5f555570065064: no source has it"


async def test_ranks(backend: FakeMetadataBackend, judge: Judge) -> None:
    for rank in (0, 1, 2, 7):
        await backend.publish_metadata(identity(), worker(rank), f"w{rank}")
    verdict = await judge.judge(asking(identity(), worker_rank=3))
    assert verdict.text == "no match: worker_rank 3, sources have ranks 0-2, 7"
    assert verdict.findings[0].asked == "3"


async def test_statuses(backend: FakeMetadataBackend, judge: Judge) -> None:
    for number, status in enumerate((Status.INITIALIZING, Status.INITIALIZING, Status.UNKNOWN)):
        await backend.publish_metadata(identity(), worker(0, status), f"w{number}")
    verdict = await judge.judge(asking(identity()))
    assert verdict.text == "no match: status READY, sources are 2 INITIALIZING, 1 UNKNOWN"


async def test_a_status_of_one_rank_among_several(backend: FakeMetadataBackend, judge: Judge) -> None:
    await backend.publish_metadata(identity(), worker(0), "w")
    await backend.publish_metadata(identity(), worker(1, Status.INITIALIZING), "w")
    verdict = await judge.judge(asking(identity()))
    assert verdict.text == "no match: status READY, sources are 1 INITIALIZING"


@pytest.mark.parametrize("seconds", [95, 200])
async def test_a_heartbeat_that_has_run_out(backend: FakeMetadataBackend, judge: Judge, seconds: int) -> None:
    """Before and after the reaper has marked it."""
    await backend.publish_metadata(identity(), worker(), "w")
    await backend.clock.advance(seconds)
    verdict = await judge.judge(asking(identity()))
    assert verdict.field == "heartbeat"
    (have,) = verdict.findings[0].have
    assert have in (f"1 source ran out {seconds - 90} s ago", f"1 source ran out {seconds - 89} s ago")


async def test_a_source_that_was_never_ready_and_is_silent(backend: FakeMetadataBackend, judge: Judge) -> None:
    await backend.publish_metadata(identity(), worker(0, Status.INITIALIZING), "w")
    await backend.clock.advance(95)
    verdict = await judge.judge(asking(identity()))
    assert verdict.text == "no match: status READY, sources are 1 STALE (last INITIALIZING)"


async def test_a_source_whose_host_refuses_connections(backend: FakeMetadataBackend, judge: Judge) -> None:
    source = await backend.publish_metadata(identity(), worker(), "w")
    await backend.clock.advance(10)
    key = SourceKey(source, 0, "w").encode()
    held = backend.directory.get(key)
    assert held is not None
    assert backend.directory.refused(key, held.record.generation, backend.now())
    verdict = await judge.judge(asking(identity()))
    gone = "1 READY, but gone: the host refuses connections"
    assert verdict.findings == (Finding("status", "READY", (gone,)),)
    # In the end it is its heartbeat, as it is everybody's.
    await backend.clock.advance(100)
    assert [finding.field for finding in (await judge.judge(asking(identity()))).findings] == ["heartbeat"]


async def test_a_source_that_took_its_leave(backend: FakeMetadataBackend, judge: Judge) -> None:
    source = await backend.publish_metadata(identity(), worker(), "w")
    await backend.update_status(source, "w", 0, Status.STALE)
    await backend.settle()
    assert (await judge.judge(asking(identity()))).text == "no match: status READY, sources are 1 STALE"


async def test_training_steps(backend: FakeMetadataBackend, judge: Judge) -> None:
    for step in ("90", "95", ""):
        await backend.publish_metadata(identity(extra_parameters={"training_step": step}), worker(), "w")
    verdict = await judge.judge(asking(model_name="org/Llama-3-8B", min_training_step=100))
    assert verdict.text == "no match: min_training_step 100, sources have 95, 90, (none)"


async def test_heartbeats_that_are_not_young_enough(backend: FakeMetadataBackend, judge: Judge) -> None:
    await backend.publish_metadata(identity(), worker(), "w")
    (known,) = await backend.list_workers()
    verdict = await judge.judge(asking(identity(), min_updated_at=known.updated_at + 1_500))
    assert verdict.field == "min_updated_at"
    assert verdict.text.endswith(": the latest heartbeat is 1.5 s older")


@pytest.mark.parametrize(
    ("filters", "text"),
    [
        ({"revision": "v2"}, "revision v2, sources have main"),
        ({"revision": ""}, "revision (none), sources have main"),
        ({"form": Form.CHECKPOINT}, "form CHECKPOINT, sources have UNSPECIFIED"),
        ({"worker_id": "x"}, "worker_id x, sources have w"),
        ({"revision": "v2", "worker_rank": 1}, "revision v2, sources have main; worker_rank 1, sources have rank 0"),
    ],
)
async def test_the_other_filters(
    backend: FakeMetadataBackend, judge: Judge, filters: dict[str, Any], text: str
) -> None:
    await backend.publish_metadata(identity(), worker(), "w")
    question = Question(Query(model_name="org/Llama-3-8B", status=Status.READY, **filters))
    assert (await judge.judge(question)).text == f"no match: {text}"


async def test_a_branch_that_a_source_knows_is_its_revision_too(backend: FakeMetadataBackend, judge: Judge) -> None:
    manifest = sources_pb2.Manifest(
        form=sources_pb2.FORM_CHECKPOINT,
        refs=["v2"],
        endpoints=[sources_pb2.Endpoint(engine="tcp", address="h:1")],
        content="c0ffee",
    )
    await backend.publish_metadata(identity(), worker(0, Status.INITIALIZING), "w", manifest=manifest)
    for known in ("main", "v2"):
        question = Question(Query(model_name="org/Llama-3-8B", revision=known, status=Status.READY))
        assert [finding.field for finding in (await judge.judge(question)).findings] == ["status"]


async def test_what_would_keep_out_the_nearest_besides_is_told(backend: FakeMetadataBackend, judge: Judge) -> None:
    await backend.publish_metadata(identity(), worker(0, Status.INITIALIZING), "w")
    verdict = await judge.judge(asking(identity(mx_version="0.6.1"), worker_rank=2))
    assert [finding.field for finding in verdict.findings] == ["mx_version", "worker_rank", "status"]


async def test_every_field_that_was_found_may_label_a_metric() -> None:
    assert len(set(FIELDS)) == len(FIELDS) < 40


async def test_an_outage_is_no_absence(backend: FakeMetadataBackend, judge: Judge) -> None:
    await backend.publish_metadata(identity(), worker(), "w")
    backend.store.fail()
    await backend.clock.advance(91)
    assert not backend.serving
    for question in (asking(identity()), asking(model_name="org/nothing"), asking()):
        verdict = await judge.judge(question)
        assert (verdict.field, verdict.matches) == ("unknown", 0)
    backend.store.heal()


async def test_identities_that_cannot_be_read_are_no_absence(backend: FakeMetadataBackend) -> None:
    await backend.publish_metadata(identity(), worker(), "w")
    async with FakeMetadataBackend(store=type(backend.store)(backend.store.store), clock=backend.clock) as second:
        second.store.fail("blob")
        judge = Judge(second, second.clock)
        asking_now = asyncio.create_task(judge.judge(asking(identity(mx_version="0.6.1"))))
        await backend.clock.advance(3)
        verdict = await asking_now
        assert verdict.field == "unknown"
        assert "could not be read" in verdict.text
        second.store.heal()
        await backend.clock.advance(6)
        assert (await judge.judge(asking(identity(mx_version="0.6.1")))).field == "mx_version"
