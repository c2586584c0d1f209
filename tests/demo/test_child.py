"""The demo's processes: followed by their JSON lines, and never waited for in vain."""

from __future__ import annotations

from pathlib import Path

import pytest

from peerload.demo.child import Child, ChildFailed, Event


async def test_a_process_that_ends_early_is_reported_with_its_last_words(tmp_path: Path) -> None:
    child = await Child.start("helper", ["no-such-command"], cwd=tmp_path, settings={})
    with pytest.raises(ChildFailed, match=r"helper ended before it was ready(?s:.*)no-such-command"):
        await child.until(lambda _event: True, "it was ready")
    assert await child.stop() == 2


async def test_json_lines_are_events_and_other_lines_are_last_words(tmp_path: Path) -> None:
    seen: list[Event] = []
    child = await Child.start(
        "server",
        ["serve", "--print-config", "--json", "--store", "memory:"],
        cwd=tmp_path,
        settings={},
        on_event=lambda _child, event: seen.append(event),
    )
    await child.ended()
    # Indented JSON is no JSON lines: nothing of it is an event.
    assert seen == []
    assert '"from": "default"' in child.last_words()
    assert await child.stop() == 0
    assert not child.running


async def test_settings_of_the_caller_s_environment_do_not_reach_a_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_EXPRESS_SERVER_PORT", "not a port")
    monkeypatch.setenv("PEERLOAD_STORE", "nonsense")
    child = await Child.start("server", ["serve", "--print-config"], cwd=tmp_path, settings={})
    await child.ended()
    assert await child.stop() == 0
