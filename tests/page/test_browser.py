"""The page in a real browser: a fleet of thousands that changes, names that are traps, a manifest of 20,000, and a token."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, ViewportSize, expect

from peerload.metadata.principals import ANYONE
from peerload.metadata.query import Query
from peerload.metadata.records import Status
from peerload.metadata.transfers import Outcome, Reading, Transfer
from peerload.server.addresses import split_address
from peerload.server.app import Server
from tests.page.fleets import Population, manifest_of
from tests.security.entries import TOKENS, write_access
from tests.support.browser import browsing, opened
from tests.support.live import free_port
from tests.support.rpc import AsyncRpc, publication
from tests.support.server import serving

DESKTOP = ViewportSize(width=1280, height=800)
PHONE = ViewportSize(width=360, height=740)
PEER = "ipv4:127.0.0.1:1"
UI = {"ui": "127.0.0.1:0", "probe": False}

expect.set_options(timeout=20_000)


# One browser for all of them: it takes a second or two to start.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with browsing() as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def server(browser: Browser) -> AsyncIterator[Server]:
    async with serving(**UI) as made:
        yield made


@contextlib.asynccontextmanager
async def restless(population: Population) -> AsyncIterator[None]:
    """Many changes a second, of status and of heartbeats, while the block runs."""
    rng = random.Random(7)
    ending = asyncio.Event()

    async def change() -> None:
        while not ending.is_set():
            for key in rng.sample(population.keys, 60):
                status = rng.choice((Status.READY, Status.READY, Status.INITIALIZING))
                await population.server.backend.update_status(*_parts(key), status, rng.random())
            await asyncio.sleep(0.05)

    changing = asyncio.create_task(change())
    try:
        yield
    finally:
        ending.set()
        await changing


def _parts(key: tuple[str, int, str]) -> tuple[str, str, int]:
    return key[0], key[2], key[1]


async def rows(page: Page, name: str) -> int:
    return await page.locator(f"#{name} .spacer .row").count()


async def test_two_thousand_workers_that_change(server: Server, browser: Browser) -> None:
    population = Population(server, [(f"org/model-{number}", 200) for number in range(10)], items=1)
    await population.publish()
    async with opened(browser, server.ui_address, viewport=DESKTOP) as page:
        async with restless(population):
            await expect(page.locator("#stats .workers .more")).to_contain_text("of 2\u202f000")
            await expect(page.locator("#models .spacer .row:not([hidden])")).not_to_have_count(0)
            await page.keyboard.press("/")
            await expect(page.locator("#find")).to_be_focused()
            await page.keyboard.type("model-7 gpu-00")
            await expect(page.locator("#worker-count")).to_have_text("80 workers")
            await page.locator("#find").fill("")
            await expect(page.locator("#worker-count")).to_have_text("2\u202f000 workers")
            # Only what is in sight is there, wherever one is.
            await page.locator("#worker-list .rows").focus()
            await page.keyboard.press("End")
            await expect(page.locator("#worker-list .row.active .model")).to_have_text("org/model-9")
            assert await rows(page, "worker-list") < 60
        # When it is quiet, what is shown is what there is.
        ready = sum(1 for key in population.keys if _shown(server, key.encode()) is Status.READY)
        await page.locator("#statuses [data-value='2']").click()
        await expect(page.locator("#worker-count")).to_have_text(f"{ready:,} workers".replace(",", "\u202f"))
        await server.backend.withdraw(*_parts(population.keys[0]))
        await page.locator("#statuses [data-value='']").click()
        await expect(page.locator("#worker-count")).to_have_text("1\u202f999 workers")


def _shown(server: Server, key: str) -> Status:
    held = server.backend.directory.get(key)
    assert held is not None
    return held.shown


@pytest.mark.parametrize(("viewport", "scheme"), [(DESKTOP, "light"), (PHONE, "dark")], ids=["desktop", "phone"])
async def test_everything_fits(server: Server, browser: Browser, viewport: ViewportSize, scheme: str) -> None:
    population = Population(server, [("a-rather-long-organisation/with-a-rather-long-name-of-a-model", 30), ("b", 3)])
    await population.publish()
    traffic = server._traffic
    assert traffic is not None
    source = population.keys[0]
    traffic.progress(Reading("a", source, 5, 10, 1.0, "tcp", "t", 0, "a-rather-long-host-name.example"), ANYONE, PEER)
    async with opened(browser, server.ui_address, viewport=viewport, color_scheme=scheme) as page:
        for view in ("overview", "workers", "transfers", "server"):
            await page.locator(f"#tabs [data-view={view}]").click()
            await expect(page.locator(f"#{view}")).to_be_visible()
            await expect(page.locator("#tabs [aria-current]")).to_have_attribute("data-view", view)
            wide = await page.evaluate(
                "[document.scrollingElement.scrollWidth, document.getElementById('view').scrollWidth]"
            )
            assert max(wide) <= viewport["width"], view
        await page.locator("#tabs [data-view=workers]").click()
        await page.locator("#worker-list .spacer .row").first.click()
        await expect(page.locator("#detail .tensors .row .name").nth(1)).to_contain_text("self_attn")
        box = await page.locator("#detail").bounding_box()
        assert box is not None
        assert box["width"] <= viewport["width"]
        await page.keyboard.press("Escape")
        await expect(page.locator("#detail")).to_be_hidden()
        # The colours can be chosen, and stay so.
        dark = await _background(page)
        for _ in range(1 if scheme == "dark" else 2):
            await page.locator("#theme").click()
        assert await _background(page) != dark
        chosen = await _background(page)
        await page.reload()
        assert await _background(page) == chosen


async def _background(page: Page) -> str:
    found: str = await page.evaluate("getComputedStyle(document.body).backgroundColor")
    return found


TRAPS = [
    "<script>window.caught = 1</script>",
    "<img src=x onerror='window.caught = 1'>",
    "'\"><svg onload=window.caught=1>",
    "javascript:window.caught=1//",
    "\u202egnp.exe\u0007",
    "x" * 4096,
]


async def test_names_are_never_markup(server: Server, browser: Browser) -> None:
    async with AsyncRpc(server.address) as rpc:
        for number, trap in enumerate(TRAPS):
            where = {"host": trap[:200], "rack": trap[:200]}
            await rpc.publish(publication(f"{number}{trap[:500]}", trap, topology=where, accelerator=trap[:500]))
    traffic = server._traffic
    assert traffic is not None
    for ranks in server.backend.directory.find(Query()):
        key = ranks[0].record.key
        trap = TRAPS[int(key.worker_id[0])][:60]
        traffic.progress(Reading(f"{key.worker_id[0]}", key, 1, 2, 1.0, trap, trap, 0, trap), ANYONE, PEER)
        traffic.finished(Transfer(key, Outcome.LOST, 1, 1.0, trap, trap, 0, trap), ANYONE, PEER)
    async with opened(browser, server.ui_address, viewport=DESKTOP) as page:
        await expect(page.locator("#models .name", has_text=TRAPS[0])).to_be_visible()
        await expect(page.locator("#feed .title").first).to_be_visible()
        await page.locator("#shown").select_option(TRAPS[1])
        await page.locator("#tabs [data-view=transfers]").click()
        await expect(page.locator("#transfer-list .model", has_text=TRAPS[1]).first).to_be_visible()
        await page.locator("#tabs [data-view=workers]").click()
        for trap in TRAPS[:5]:
            await page.locator("#worker-list .row:not(.heads)", has_text=trap).first.click()
            await expect(page.locator("#detail-title")).to_have_text(trap)
            await expect(page.locator("#detail .facts.more dd").first).to_be_visible()
            await page.keyboard.press("Escape")
        assert await page.evaluate("window.caught") is None
        assert await page.locator("img, body script, body svg[onload]").count() == 0


async def test_a_manifest_of_twenty_thousand(server: Server, browser: Browser) -> None:
    population = Population(server, [("org/large", 1)], items=20_000)
    await population.publish()
    last = manifest_of(20_000).items[-1].name
    async with opened(browser, server.ui_address, viewport=DESKTOP) as page:
        await page.locator("#tabs [data-view=workers]").click()
        await page.locator("#worker-list .rows").focus()
        await page.keyboard.press("ArrowDown")
        await page.keyboard.press("Enter")
        tensors = page.locator("#detail .tensors")
        await expect(page.locator("#detail .tools .muted")).to_contain_text("20\u202f000 items")
        await tensors.locator(".rows").focus()
        await page.keyboard.press("End")
        await expect(tensors.locator(".row.active .name")).to_have_text(last)
        await page.keyboard.press("Home")
        for _ in range(20):
            await page.keyboard.press("PageDown")
        await expect(tensors.locator(".row.active .name")).to_contain_text("model.layers.")
        assert await tensors.locator(".spacer .row").count() < 60
        await page.keyboard.press("/")
        await page.keyboard.type(".LAYERS.1666.")
        await expect(page.locator("#detail .tools .muted")).to_contain_text("8 of 20\u202f000")
        await page.locator("#detail select").select_option("-size")
        await expect(tensors.locator(".spacer .name").first).to_have_text(last)


async def test_a_token_opens_the_page_and_goes_nowhere_else(tmp_path: Path, browser: Browser) -> None:
    access = write_access(tmp_path / "access.toml")
    async with serving(access=str(access), **UI) as server:
        async with AsyncRpc(server.address, TOKENS["admin"]) as rpc:
            await rpc.publish(publication("w0", "team/ours"))
            await rpc.publish(publication("w1", "org/theirs"))
        refused = "Failed to load resource: the server responded with a status of 401"
        async with opened(browser, server.ui_address, expected=(refused,), viewport=DESKTOP) as page:
            asked: list[str] = []
            page.on("request", lambda request: asked.append(request.url))
            await expect(page.locator("#entry")).to_be_visible()
            await page.keyboard.press("Escape")
            await page.locator("#token").fill("wrong")
            await page.keyboard.press("Enter")
            await expect(page.locator("#entry-reason")).to_contain_text("the token is not known")
            await page.locator("#token").fill(TOKENS["team"])
            await page.keyboard.press("Enter")
            await expect(page.locator("#models .spacer .name")).to_have_text(["team/ours"])
            await page.reload()
            await expect(page.locator("#models .spacer .name")).to_have_text(["team/ours"])
            await page.locator("#tabs [data-view=server]").click()
            await expect(page.locator("#server")).to_contain_text("token:team")
            await expect(page.locator("#server")).to_contain_text("not yours to know")
            assert await page.evaluate("Object.values(sessionStorage)") == [TOKENS["team"]]
            assert await page.evaluate("JSON.stringify(localStorage) + document.cookie") == "{}"
            # Who may no longer look sees nothing more.
            write_access(access, without=["team"])
            await expect(page.locator("#entry-reason")).to_contain_text("the token is not known")
            assert "team/ours" not in await page.locator("body").inner_text()
            assert await page.locator("#models .spacer .row").count() == 0
            assert await page.evaluate("sessionStorage.length") == 0
            assert not [url for url in asked if TOKENS["team"] in url]


async def test_what_moves_is_seen_and_so_is_how_it_ended(server: Server, browser: Browser) -> None:
    population = Population(server, [("org/model", 3)], size=1 << 30)
    await population.publish()
    traffic = server._traffic
    assert traffic is not None
    source = population.keys[0]
    read = Reading("a1", source, 1 << 30, 4 << 30, 1.0, "tcp", "reader", 0, "gpu-9")
    traffic.progress(read, ANYONE, PEER)
    async with opened(browser, server.ui_address, viewport=DESKTOP) as page:
        await expect(page.locator("#feed .live .way")).to_contain_text("→ gpu-9")
        await expect(page.locator("#stats .moving b")).to_have_text("1 read")
        await expect(page.locator("#swarm")).to_have_attribute(
            "aria-label", "1 read under way. org/model: 3 workers, 1 read under way"
        )
        traffic.finished(Transfer(source, Outcome.OK, 4 << 30, 2.0, "tcp", "reader", 0, "gpu-9", "a1"), ANYONE, PEER)
        await expect(page.locator("#feed .ok .fact")).to_contain_text("4.29 GB in 2.00 s")
        await expect(page.locator("#stats .moving b")).to_have_text("0 reads")
        traffic.finished(Transfer(source, Outcome.STALLED, 5, 30.0, "tcp", "other", 0, "gpu-8"), ANYONE, PEER)
        await page.locator("#tabs [data-view=transfers]").click()
        await page.locator("#outcomes [data-value=bad]").click()
        await expect(page.locator("#transfer-list .spacer .row:not([hidden]) .outcome")).to_have_text(["stalled"])


async def test_a_rank_that_is_missing_is_seen(server: Server, browser: Browser) -> None:
    await Population(server, [("org/model", 14)], ranks=8).publish()
    async with opened(browser, server.ui_address, viewport=DESKTOP) as page:
        said = "0 reads under way. org/model: 14 workers, 0 reads under way, 2 ranks missing"
        await expect(page.locator("#swarm")).to_have_attribute("aria-label", said)
        await expect(page.locator("#models .spacer .replicas").first).to_have_text("1 / 2 whole")
        await page.locator("#models .spacer .row").first.click()
        await expect(page.locator("#worker-list .spacer .rank").nth(13)).to_have_text("5 / 8")


async def test_no_lane_is_lower_than_its_rows(server: Server, browser: Browser) -> None:
    """Gaps between replicas push some of them into rows of their own."""
    async with opened(browser, server.ui_address, viewport=DESKTOP) as page:
        over = await page.evaluate("""async () => {
            const { arrange } = await import(new URL("lanes.js", document.querySelector("script[src]").src));
            const over = [];
            for (let replicas = 1; replicas <= 90; replicas += 1) {
                const nodes = [];
                for (let at = 0; at < 8 * replicas; at += 1) {
                    const worker = { world: 8, rank: at % 8, source: "s", replica: `r${(at - at % 8) / 8}`, worker: `${at}` };
                    nodes.push({ depth: 0, place: `${at}`, worker });
                }
                const lane = { nodes };
                arrange([lane], { width: 898, height: 440, hidden: 0 });
                const foot = Math.max(...nodes.map((node) => node.toY + node.toSize / 2));
                if (foot > lane.top + lane.height) over.push(replicas);
            }
            return over;
        }""")
    assert over == []


async def test_the_dead_hold_nothing(server: Server, browser: Browser) -> None:
    population = Population(server, [("org/model", 3)], items=1, size=100_000_000)
    await population.publish()
    async with opened(browser, server.ui_address, viewport=DESKTOP) as page:
        await expect(page.locator("#stats .held .num")).to_have_text("300 MB")
        await server.backend.update_status(*_parts(population.keys[0]), Status.STALE)
        await expect(page.locator("#stats .held .num")).to_have_text("200 MB")
        await page.keyboard.press("3")
        await expect(page.locator("#transfer-count")).to_have_text("0 reads under way, 0 ended lately")


@contextlib.asynccontextmanager
async def holding(address: str) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """An address that leads to `address`, and an event: while it is not set, nothing comes back from there, and no connection ends."""
    flowing = asyncio.Event()
    flowing.set()
    host, port = split_address(address)

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, port)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, held: bool) -> None:
            with contextlib.suppress(ConnectionError):
                while data := await source.read(65536):
                    if held:
                        await flowing.wait()
                    sink.write(data)
                    await sink.drain()
            sink.close()

        await asyncio.gather(pump(reader, back, held=False), pump(there, writer, held=True))

    async with await asyncio.start_server(carry, "127.0.0.1", 0) as listening:
        yield f"127.0.0.1:{listening.sockets[0].getsockname()[1]}", flowing
        flowing.set()


async def passes_until(page: Page, link: str, notice: str) -> None:
    """Let the page's time pass, which stands still otherwise, until it says this of its connection."""
    for _ in range(50):
        shown = await page.evaluate(
            "[document.getElementById('link').innerText, document.getElementById('notice').innerText]"
        )
        if shown == [link, notice]:
            return
        await page.clock.fast_forward(4_000)
    raise AssertionError(f"it says {shown}")


async def test_a_connection_that_falls_silent_is_not_called_live(server: Server, browser: Browser) -> None:
    lost = ("Failed to load resource", "net::ERR")
    doubt = "Nothing has come from the server for some seconds: what is shown may be out of date."
    given_up = "The connection to the server is lost (nothing came for 20 s). What is shown is as it was."
    async with holding(server.ui_address) as (address, flowing), opened(browser, address, expected=lost) as page:
        await page.clock.install()
        await page.clock.pause_at(datetime.now(tz=UTC) + timedelta(days=1))
        await page.reload()
        await expect(page.locator("#link")).to_have_text("live")
        flowing.clear()
        await passes_until(page, "silent", doubt)
        flowing.set()
        await expect(page.locator("#link")).to_have_text("live")
        await expect(page.locator("#notice")).to_be_hidden()
        flowing.clear()
        await passes_until(page, "reconnecting", given_up)


async def test_a_server_that_comes_back_is_looked_at_anew(browser: Browser) -> None:
    port = free_port()
    lost = ("Failed to load resource", "net::ERR")
    where = {**UI, "ui": f"127.0.0.1:{port}"}
    async with contextlib.AsyncExitStack() as stack:
        async with serving(**where) as server:
            await Population(server, [("org/before", 2)]).publish()
            page = await stack.enter_async_context(opened(browser, server.ui_address, expected=lost, viewport=PHONE))
            await expect(page.locator("#models .spacer .name")).to_have_text(["org/before"])
        await expect(page.locator("#link")).to_have_text("reconnecting")
        await expect(page.locator("#notice")).to_have_text(
            "The connection to the server is lost (it cannot be reached). What is shown is as it was."
        )
        await page.keyboard.press("4")
        await expect(page.locator("#server .verdict")).to_have_text(
            ["Not reached: what is below is as it was", "Not known"]
        )
        await page.keyboard.press("1")
        async with serving(**where) as server:
            await Population(server, [("org/after", 2)]).publish()
            await expect(page.locator("#models .spacer .row:not([hidden]) .name")).to_have_text(["org/after"])
            await expect(page.locator("#link")).to_have_text("live")
            await expect(page.locator("#notice")).to_be_hidden()
            # Before its server: a browser that comes back once more would complain.
            await stack.aclose()
