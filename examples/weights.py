"""Publish arrays, pull them from somewhere else, and serve them on: needs a running `peerload serve`, and numpy."""

import asyncio

import numpy as np

from peerload import AsyncClient, Client


async def publisher(ready: asyncio.Event, done: asyncio.Event) -> None:
    weights = {"embed": np.random.rand(1000, 64).astype("float32"), "head": np.ones(64, "float16")}
    async with AsyncClient() as client, client.publish(weights, model="org/name") as source:
        print(f"serving {source.manifest.total_size:,} bytes at {source.addresses[0]}")
        ready.set()  # from here until the block ends, peers may read the arrays; the server hears a heartbeat
        await done.wait()


async def puller() -> None:
    async with AsyncClient() as client:
        # Finds a source or waits for one, reads, verifies, and becomes a source itself.
        weights = await client.pull("org/name", wait=30, publish=True)
        print(f"pulled {list(weights)} from {weights.report.sources[0].address}, checked {weights.report.verified}")
        print(f"embed: {weights['embed'].dtype} {weights['embed'].numpy().shape}")
        print(f"{len(await client.find('org/name'))} workers have it now")


def puller_without_asyncio() -> None:
    with Client() as client:
        weights = client.pull("org/name")
        print(f"pulled {weights.report.bytes_moved:,} bytes again, without an event loop")


def loader_without_asyncio() -> None:
    with Client() as client:
        model = {"embed": np.empty((1000, 64), "float32"), "head": np.empty(64, "float16")}
        for name, array in client.iter_weights("org/name", framework="np"):  # "pt": torch tensors
            model[name][:] = array  # or model.load_weights(client.iter_weights(...))
        filled = client.pull_into(model, "org/name")  # names, dtypes and shapes must fit; checked before anything moves
        print(f"filled {filled.report.bytes_total:,} bytes in place")


async def main() -> None:
    ready, done = asyncio.Event(), asyncio.Event()
    serving = asyncio.create_task(publisher(ready, done))
    await puller()
    await ready.wait()
    await asyncio.to_thread(puller_without_asyncio)
    await asyncio.to_thread(loader_without_asyncio)
    done.set()
    await serving


if __name__ == "__main__":
    asyncio.run(main())
