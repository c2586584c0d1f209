"""With a real GPU and real torch, where there are any."""

from __future__ import annotations

from typing import Any

import pytest
import xxhash

from peerload import AsyncClient, Identity
from peerload.client.offering import offer_tensors
from peerload.errors import InvalidArgument

torch = pytest.importorskip("torch", reason="torch is not installed")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.torch,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]


async def test_parameters_on_a_gpu_are_filled(source: AsyncClient, target: AsyncClient) -> None:
    mine = {"w": torch.randn(3000, 500, dtype=torch.bfloat16), "v": torch.arange(7)}
    fused = torch.zeros(500, 6000, dtype=torch.bfloat16, device="cuda")
    into = {"w": fused[:, 3000:].T, "v": torch.nn.Parameter(torch.zeros(7, device="cuda").long(), requires_grad=False)}
    async with source.publish(mine, model="org/model"):
        await target.pull_into(into, "org/model")
        assert torch.equal(into["w"].cpu(), mine["w"])
        assert torch.equal(into["v"].cpu(), mine["v"])
        assert not fused[:, :3000].any()
        async for name, tensor in target.iter_weights("org/model", framework="pt"):
            assert torch.equal(tensor.cuda().cpu(), mine[name])


async def test_tcp_refuses_a_gpus_memory_by_name(source: AsyncClient) -> None:
    with pytest.raises(InvalidArgument, match=r"^tensors\['w'\]: is in the memory of CUDA device 0, .*tensor\.cpu\(\)"):
        await source.publish({"w": torch.zeros(3, device="cuda")}, model="org/model")


def test_what_is_published_of_a_gpus_memory() -> None:
    tensor = torch.randn(500, 70, dtype=torch.float16, device="cuda")

    class Array:
        """The same memory, from a library of another name."""

        __cuda_array_interface__: Any = tensor.__cuda_array_interface__
        device = tensor.device

    for each, stride in ((tensor, ()), (tensor.T, (1, 70)), (Array(), ())):
        for digests in (None, True):
            made = offer_tensors(
                {"w": each},
                Identity(model="m"),
                0,
                copy=False,
                digests=digests,
                check=lambda found: None,
                progress=lambda done, total: None,
            )
            (item,) = made.manifest.items
            known = xxhash.xxh3_128_digest(tensor.cpu().numpy().tobytes()) if digests else b""
            assert (item.device, item.stride, item.digest, item.size) == (0, stride, known, 70_000)
