"""Identities: to the wire and back, and what sets sources apart."""

from __future__ import annotations

import pytest

from peerload import Form, Framework, Identity
from peerload.errors import InvalidArgument


def test_round_trip() -> None:
    identity = Identity(
        model="org/Modèle",
        revision="abc",
        framework=Framework.VLLM,
        tensor_parallel_size=8,
        expert_parallel_size=0,
        dtype="bfloat16",
        quantization="fp8",
        torch_version="2.9",
        gpu_arch="sm90",
        extra={"training_step": "7"},
    )
    back = Identity.from_wire(identity.to_wire())
    assert back.extra == {"training_step": "7", "peerload.form": "runtime"}
    assert back.source_id == identity.source_id
    assert back.to_wire() == identity.to_wire()


def test_an_unknown_framework_is_read_as_unknown() -> None:
    message = Identity(model="m").to_wire()
    message.backend_framework = 77  # type: ignore[assignment]
    assert Identity.from_wire(message).framework is Framework.UNKNOWN


def test_the_forms_never_meet() -> None:
    plain, files = Identity(model="m"), Identity.checkpoint("m", "", "00")
    assert (plain.form, files.form) == (Form.RUNTIME, Form.CHECKPOINT)
    assert plain.source_id != files.source_id
    assert files.source_id != Identity.checkpoint("m", "", "01").source_id
    assert files.source_id != Identity.checkpoint("m", "r", "00").source_id


def test_no_version_of_ours_divides_the_fleet() -> None:
    assert Identity(model="m").to_wire().mx_version == ""


def test_bad_identities_name_the_field() -> None:
    with pytest.raises(InvalidArgument, match=r"^model: "):
        Identity(model="")
    with pytest.raises(InvalidArgument, match=r"^tensor_parallel_size: "):
        Identity(model="m", tensor_parallel_size=2**32)
    with pytest.raises(InvalidArgument, match=r"^revision: "):
        Identity(model="m", revision="\ud800")
