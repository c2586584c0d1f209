"""With real torch, where it is installed; the rest of the tests does without."""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np
import pytest

from peerload import AsyncClient, ClientSettings
from peerload.checkpoint.dtypes import DTYPES, torch_name
from peerload.client import Tensor
from peerload.server.app import Server
from tests.support.server import serving

torch = pytest.importorskip("torch", reason="torch is not installed")
pytestmark = pytest.mark.torch

QUICK = ClientSettings(patience=0.2, retry_delay=0.01, tries=2, retire_grace=0.5, outage_patience=0.2)
TORCH = [name for name, dtype in DTYPES.items() if dtype.torch and hasattr(torch, dtype.torch)]


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving() as server:
        yield server


@pytest.fixture
async def source(server: Server) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.address, settings=QUICK) as client:
        yield client


@pytest.fixture
async def target(server: Server) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.address, settings=QUICK) as client:
        yield client


def tensor(name: str) -> Tensor:
    size = 6 * max(8, DTYPES[name].bits) // 8
    return Tensor("w", torch_name(name), (2, 3), memoryview(bytearray(value % 2 for value in range(size))))


def words(found: torch.Tensor) -> list[int]:
    return list(found.contiguous().view(torch.uint8).flatten().tolist())


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
