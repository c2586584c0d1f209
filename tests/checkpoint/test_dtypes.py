from __future__ import annotations

import numpy as np
import pytest
import safetensors

from peerload.checkpoint.dtypes import (
    DTYPES,
    from_numpy,
    from_torch,
    itemsize_bits,
    numpy_dtype,
    numpy_name,
    torch_name,
)
from peerload.errors import InvalidArgument
from tests.support.checkpoints import with_header


def test_the_formats_own_package_has_the_same_dtypes() -> None:
    with pytest.raises(safetensors.SafetensorError) as refusal:
        safetensors.deserialize(with_header(b'{"a":{"dtype":"?","shape":[],"data_offsets":[0,0]}}'))
    listed = set(str(refusal.value).split("`")[3::2])
    assert listed == set(DTYPES)


@pytest.mark.parametrize("name", DTYPES)
def test_torch_names_lead_back(name: str) -> None:
    assert from_torch(torch_name(name)) == name


def test_known_names() -> None:
    assert torch_name("BF16") == "torch.bfloat16"
    assert torch_name("F8_E4M3") == "torch.float8_e4m3fn"
    assert torch_name("F6_E2M3") == "safetensors.F6_E2M3"
    assert from_torch("float16") == "F16"
    assert numpy_name("BOOL") == "bool"
    assert from_numpy("bfloat16") == "BF16"


@pytest.mark.parametrize("name", [name for name in DTYPES if itemsize_bits(name) >= 8])
def test_numpy_agrees_on_sizes_and_names(name: str) -> None:
    dtype = numpy_dtype(name)
    assert dtype.itemsize * 8 == itemsize_bits(name)
    assert from_numpy(dtype.name) == name
    assert np.zeros(3, dtype).nbytes * 8 == 3 * itemsize_bits(name)


def test_what_has_no_counterpart_is_refused() -> None:
    for call, argument in (
        (itemsize_bits, "F7"),
        (torch_name, "bfloat16"),
        (from_torch, "torch.complex128"),
        (from_torch, "safetensors.BF16"),
        (from_torch, "safetensors.X"),
        (numpy_name, "F4"),
        (from_numpy, "object"),
    ):
        with pytest.raises(InvalidArgument, match="dtype"):
            call(argument)
