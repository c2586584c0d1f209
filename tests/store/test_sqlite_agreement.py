"""All who have one SQLite file open go by one clock, whatever is done to the host's."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from peerload.errors import Unavailable
from peerload.store.sqlite import SqliteStore
from peerload.store.sqlite.agreement import Agreement
from peerload.testing import ManualClock

OTHER = """
import sys, time
from pathlib import Path
from peerload.store.sqlite.agreement import Agreement
held = Agreement(Path(sys.argv[1]), 12345.5)
print(held.ahead_ms, flush=True)
time.sleep(60)
"""


def agreed(store: SqliteStore, clock: ManualClock) -> bool:
    """Whether a store goes by the clock as it was at first."""
    return store.now() == round(1_750_000_000_000 + (clock.monotonic() - 1_000.0) * 1_000.0)


async def test_all_who_have_the_file_open_have_one_clock(store: SqliteStore, path: Path, clock: ManualClock) -> None:
    clock.set_wall_ms(clock.wall_ms() + 600_000)
    await clock.advance(1)
    async with contextlib.AsyncExitStack() as stack:
        others = [SqliteStore(path, clock) for _ in range(3)]
        for other in others:
            await other.open()
            stack.push_async_callback(other.close)
        assert all(agreed(each, clock) for each in (store, *others))
        # Whoever came first may go.
        await store.close()
        await store.open()
        assert agreed(store, clock)
    assert agreed(store, clock)


async def test_whoever_is_alone_goes_by_the_hosts_clock(store: SqliteStore, path: Path, clock: ManualClock) -> None:
    clock.set_wall_ms(clock.wall_ms() - 600_000)
    await clock.advance(1)
    await store.close()
    await store.open()
    assert store.now() == clock.wall_ms()
    assert oct((path.parent / f"{path.name}-clock").stat().st_mode)[-3:] == "600"


async def test_a_process_that_is_killed_agrees_no_longer(path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OTHER, str(path), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"12345.5\n"
    before = Agreement(path, 1.0)
    process.kill()
    await process.wait()
    after = Agreement(path, 2.0)
    assert (before.ahead_ms, after.ahead_ms) == (12345.5, 12345.5)
    before.close()
    after.close()
    alone = Agreement(path, 3.0)
    assert alone.ahead_ms == 3.0
    alone.close()


@pytest.mark.parametrize("text", ["", "no number"])
async def test_what_is_left_of_an_agreement_is_nobodys(path: Path, clock: ManualClock, text: str) -> None:
    """Of who was killed while it agreed, or of a person."""
    path.with_name(f"{path.name}-clock").write_text(text)
    store = SqliteStore(path, clock)
    await store.open()
    assert store.now() == clock.wall_ms()
    await store.close()


def test_many_who_come_at_once_agree(path: Path) -> None:
    for _ in range(20):
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda number: Agreement(path, float(number)), range(8)))
        assert len({each.ahead_ms for each in found}) == 1
        for each in found:
            each.close()


async def test_a_place_where_nobody_can_agree_is_an_outage(path: Path, clock: ManualClock) -> None:
    path.with_name(f"{path.name}-clock").mkdir()
    with pytest.raises(Unavailable, match=r"store.sqlite-clock: Is a directory"):
        await SqliteStore(path, clock).open()
