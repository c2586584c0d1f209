"""With real torch, where it is installed; the rest of the tests does without."""

from __future__ import annotations

import numpy as np
import pytest

from peerload import AsyncClient
from peerload.checkpoint.dtypes import DTYPES, torch_name
from peerload.client import Tensor
from peerload.errors import InvalidArgument, PullFailed

torch = pytest.importorskip("torch", reason="torch is not installed")
pytestmark = pytest.mark.torch

TORCH = [name for name, dtype in DTYPES.items() if dtype.torch and hasattr(torch, dtype.torch)]


def tensor(name: str) -> Tensor:
    size = 6 * max(8, DTYPES[name].bits) // 8
    return Tensor("w", torch_name(name), (2, 3), memoryview(bytearray(value % 2 for value in range(size))))


def words(found: torch.Tensor) -> list[int]:
    return list(found.contiguous().flatten().view(torch.uint8).tolist())


@pytest.mark.parametrize("name", TORCH)
def test_every_dtype_by_torch(name: str) -> None:
    mine = tensor(name)
    found = mine.torch()
    assert (str(found.dtype), tuple(found.shape)) == (torch_name(name), (2, 3))
    mine.memory[0] = 7 if name != "BOOL" else 1
    assert words(found) == list(mine.memory), "it is the same memory"
    empty = Tensor("w", torch_name(name), (0, 3), memoryview(bytearray())).torch()
    assert (str(empty.dtype), tuple(empty.shape)) == (torch_name(name), (0, 3))


@pytest.mark.parametrize("name", [name for name in TORCH if name != "F4"])
def test_every_dtype_by_dlpack(name: str) -> None:
    mine = tensor(name)
    found = torch.from_dlpack(mine)
    assert (str(found.dtype), tuple(found.shape)) == (torch_name(name), (2, 3))
    mine.memory[0] = 7 if name != "BOOL" else 1
    assert words(found) == list(mine.memory), "it is the same memory"


async def test_a_state_dict_there_and_back(source: AsyncClient, target: AsyncClient) -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(30, 20, dtype=torch.bfloat16)
    mine = dict(layer.state_dict()) | {"tied": layer.weight.data, "eight": torch.ones(8).to(torch.float8_e4m3fn)}
    async with source.publish(mine, model="org/model"):
        pulled = await target.pull("org/model", framework="pt")
        streamed = {name: found async for name, found in target.iter_weights("org/model", framework="pt")}
    for found in (dict(pulled), streamed):
        assert found.keys() == mine.keys()
        for name, each in found.items():
            assert each.dtype == mine[name].dtype
            assert words(each) == words(mine[name])
        assert found["tied"].data_ptr() == found["weight"].data_ptr()
    other = torch.nn.Linear(30, 20, dtype=torch.bfloat16)
    other.load_state_dict({name: pulled[name] for name in ("weight", "bias")})
    assert torch.equal(other.weight, layer.weight)
    assert np.isfinite(other.weight.detach().float().numpy()).all()


async def test_into_a_state_dict(source: AsyncClient, target: AsyncClient) -> None:
    """Parameters, tied ones, a transposed one and a slice of a fused one."""
    torch.manual_seed(0)
    mine = {
        "embed": torch.randn(50, 20, dtype=torch.bfloat16),
        "eight": torch.randn(20, 20).to(torch.float8_e5m2),
        "up": torch.randn(40, 20, dtype=torch.float16),
        "flags": torch.rand(7) > 0.5,
        "complex": torch.randn(5, dtype=torch.complex64),
        "step": torch.tensor(3),
    }
    mine |= {"head": mine["embed"], "turned": mine["up"].T}
    fused = torch.zeros(20, 80, dtype=torch.float16)
    embed = torch.nn.Parameter(torch.zeros(50, 20, dtype=torch.bfloat16))
    into = {
        "embed": embed,
        "head": embed,
        "eight": torch.zeros(20, 20).to(torch.float8_e5m2).T,
        "up": fused[:, 40:].T,
        "flags": torch.zeros(14, dtype=torch.bool)[::2],
        "complex": torch.zeros(10, dtype=torch.complex64)[::2],
        "step": torch.tensor(0),
        "turned": torch.zeros(20, 40, dtype=torch.float16),
    }
    strides = {name: each.stride() for name, each in into.items()}
    async with source.publish(mine, model="org/model"):
        await target.pull_into(into, "org/model")
        with pytest.raises(PullFailed, match=r"1 different: 'step' is torch\.int64"):
            await target.pull_into(into | {"step": torch.zeros(1)}, "org/model")
        with pytest.raises(InvalidArgument, match="meta device"):
            await target.pull_into(into | {"step": torch.zeros((), device="meta")}, "org/model")
    for name, each in into.items():
        assert words(each.detach()) == words(mine[name]), name
        assert each.stride() == strides[name]
    assert not fused[:, :40].any()
    assert embed.requires_grad


async def test_strides_arrive_as_they_left(source: AsyncClient, target: AsyncClient) -> None:
    torch.manual_seed(0)
    qkv = torch.randn(60, 20, dtype=torch.bfloat16)
    mine = {
        "turned": torch.randn(3, 4, 5).permute(2, 0, 1),
        "fused": qkv.T,
        "q": qkv[:20],
        "kv": qkv[20:],
        "qkv": qkv,
        "channels": torch.randn(1, 8, 4, 4).to(memory_format=torch.channels_last),
    }
    async with source.publish(mine, model="org/model") as published:
        regions = {item.name: (item.region, item.offset) for item in published.manifest.items}
        assert regions["q"] == regions["qkv"] == regions["fused"] == (1, 0)
        assert regions["kv"] == (1, 20 * 20 * 2), "views of one storage are served from one region"
        pulled = await target.pull("org/model", framework="pt")
        tensors = await target.pull("org/model")
        with pytest.raises(InvalidArgument, match="holes"):
            await source.publish({"w": qkv[:, ::2]}, model="org/model")
    for name, each in mine.items():
        assert torch.equal(pulled[name], each)
        assert torch.equal(torch.from_dlpack(tensors[name]), each)
        assert normalised(pulled[name]) == normalised(torch.from_dlpack(tensors[name])) == normalised(each)


def normalised(tensor: torch.Tensor) -> list[int]:
    return [step for step, length in zip(tensor.stride(), tensor.shape, strict=True) if length != 1]


async def test_what_torch_holds_lazily_is_not_published_as_it_lies(source: AsyncClient, target: AsyncClient) -> None:
    conjugate = torch.randn(5, dtype=torch.complex64).conj()
    with pytest.raises(InvalidArgument, match="copy=True"):
        await source.publish({"w": conjugate}, model="org/model")
    into = torch.zeros(5, dtype=torch.complex64)
    async with source.publish({"w": conjugate}, model="org/model", copy=True):
        await target.pull_into({"w": into}, "org/model")
    assert torch.equal(into, conjugate)
