"""The source id: the contract's vectors, and its rules as properties."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerload.wire.identity import canonical_json, is_source_id, source_id
from peerload.wire.p2p_pb2 import BACKEND_FRAMEWORK_VLLM, SourceIdentity
from tests.support.stock import import_stock

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
ascii_text = st.text(st.characters(min_codepoint=0, max_codepoint=0x7E), max_size=12)
OPTIONAL = [
    "backend_framework_version",
    "torch_version",
    "cuda_version",
    "triton_version",
    "gpu_arch",
    "compile_config_digest",
]


def identities(strings: st.SearchStrategy[str] = text) -> st.SearchStrategy[SourceIdentity]:
    names = [field.name for field in SourceIdentity.DESCRIPTOR.fields if field.type == field.TYPE_STRING]
    return st.builds(
        SourceIdentity,
        **dict.fromkeys(names, strings),
        mx_source_type=st.integers(0, 9),
        backend_framework=st.integers(0, 3),
        tensor_parallel_size=st.integers(0, 2**32 - 1),
        pipeline_parallel_size=st.integers(0, 9),
        expert_parallel_size=st.integers(0, 9),
        extra_parameters=st.dictionaries(strings, strings, max_size=4),
    )


def deepseek(**changes: object) -> SourceIdentity:
    fields: dict[str, object] = {
        "mx_version": "0.5.0",
        "model_name": "deepseek-ai/DeepSeek-V3",
        "backend_framework": BACKEND_FRAMEWORK_VLLM,
        "tensor_parallel_size": 8,
        "pipeline_parallel_size": 1,
        "dtype": "bfloat16",
    }
    return SourceIdentity(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("identity", "expected"),
    [
        (deepseek(), "5a5f555570065064"),
        (deepseek(revision="abc123def4567890"), "d0c184b2a9a34c82"),
        (deepseek(extra_parameters={"Foo": "a", "foo": "b"}), "bf71fb9340cd940a"),
        (deepseek(model_name="org/Modèle"), "1fa10020b99971bb"),
    ],
)
def test_the_contracts_vectors(identity: SourceIdentity, expected: str) -> None:
    assert source_id(identity) == expected
    assert is_source_id(expected)


def test_the_canonical_form_is_what_the_contract_says() -> None:
    assert canonical_json(deepseek(extra_parameters={"B": "É\x7f\n\x01"}, gpu_arch="SM90")) == (
        '{"backend_framework":1,"dtype":"bfloat16","expert_parallel_size":0,"extra_parameters":{"b":"é\x7f\\n\\u0001"},'
        '"gpu_arch":"sm90","model_name":"deepseek-ai/deepseek-v3","mx_source_type":0,"mx_version":"0.5.0",'
        '"pipeline_parallel_size":1,"quantization":"","revision":"","tensor_parallel_size":8}'
    )


@given(identities())
def test_it_is_a_hash_of_canonical_json(identity: SourceIdentity) -> None:
    form = canonical_json(identity)
    assert source_id(identity) == hashlib.sha256(form.encode()).hexdigest()[:16]
    parsed = json.loads(form)
    assert list(parsed) == sorted(parsed)
    assert list(parsed["extra_parameters"]) == sorted(parsed["extra_parameters"])
    for name in OPTIONAL:
        assert (name in parsed) == bool(getattr(identity, name))
    assert {"mx_version", "dtype", "quantization", "revision", "model_name"} <= set(parsed)


@given(identities())
def test_neither_case_nor_the_order_of_parameters_counts(identity: SourceIdentity) -> None:
    folded = SourceIdentity.FromString(identity.SerializeToString())
    folded.model_name = identity.model_name.lower()
    entries = sorted(identity.extra_parameters.items(), reverse=True)
    folded.ClearField("extra_parameters")
    for key, word in entries:
        folded.extra_parameters[key] = word
    assert source_id(folded) == source_id(identity)


@given(st.text("abcXYZ", min_size=1), ascii_text, ascii_text)
def test_of_colliding_keys_the_first_by_original_order_counts(key: str, first: str, second: str) -> None:
    keys = sorted({key.upper(), key.lower()})
    both = deepseek(extra_parameters=dict(zip(reversed(keys), (second, first), strict=True)))
    assert source_id(both) == source_id(deepseek(extra_parameters={keys[0]: first}))


@given(identities(), st.sampled_from([*OPTIONAL, "mx_version", "dtype", "quantization", "revision", "model_name"]))
def test_every_field_counts(identity: SourceIdentity, name: str) -> None:
    changed = SourceIdentity.FromString(identity.SerializeToString())
    setattr(changed, name, getattr(identity, name) + "x")
    assert source_id(changed) != source_id(identity)


@given(identities(ascii_text))
def test_it_is_the_stock_clients_own_for_ascii(identity: SourceIdentity) -> None:
    stock = import_stock("metadata.source_id")
    theirs = import_stock("p2p_pb2").SourceIdentity.FromString(identity.SerializeToString())
    assert stock.compute_mx_source_id(theirs) == source_id(identity)


@pytest.mark.parametrize(
    "other", ["", "5A5F555570065064", "5a5f55557006506", "5a5f5555700650640", "5a5f55557006506g", "../../etc/passwd"]
)
def test_what_is_no_source_id(other: str) -> None:
    assert not is_source_id(other)
