"""The commands as a user runs them: processes, a real server, exit statuses, what they say and where."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from peerload.cli import COMMANDS, build_app
from tests.cli.commands import LIMIT_S, Running, environment, peerload
from tests.support.live import LiveServer, Rpc, free_port, publication

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_share_pull_and_pull_from_the_puller(server: LiveServer, folder: Path, tmp_path: Path) -> None:
    at = ("--server", server.address)
    with Running("share", folder, "--model", "org/chain", "--json", *at) as first:
        skipped = first.event("skipped")
        assert skipped["path"] == "modeling.py"
        shared = first.event("sharing")
        assert shared["files"] == 3

        with Running("pull", "org/chain", "-o", tmp_path / "one", "--share", "--json", *at) as second:
            pulled = second.event("pulled")
            # The safetensors header comes with the manifest.
            assert 2_000_000 <= pulled["bytes_moved"] == pulled["bytes_total"] < shared["bytes"]
            assert pulled["content"] == shared["content"]
            assert [source["worker_id"] for source in pulled["sources"]] == [shared["worker_id"]]
            onward = second.event("sharing")
            assert onward["source_id"] == shared["source_id"]
            assert onward["worker_id"] != shared["worker_id"]

            first.signal(signal.SIGTERM)
            first.event("withdrawn")
            assert first.wait() == 0

            third = peerload("pull", "org/chain", "--local-dir", tmp_path / "two", "--json", *at)
            assert third.returncode == 0, third.stderr
            last = json.loads(third.stdout.splitlines()[-1])
            assert [source["worker_id"] for source in last["sources"]] == [onward["worker_id"]]

            second.signal(signal.SIGINT)
            assert second.wait() == 0

    expected = {path: content for path, content in files(folder).items() if path != "modeling.py"}
    assert files(tmp_path / "one") == expected
    assert files(tmp_path / "two") == expected
    gone = peerload("pull", "org/chain", "-o", tmp_path / "three", *at)
    assert gone.returncode == 3
    assert not (tmp_path / "three").exists() or not files(tmp_path / "three")


def test_pull_waits_until_somebody_shares_and_allow_code_takes_everything(
    server: LiveServer, folder: Path, tmp_path: Path
) -> None:
    at = ("--server", server.address)
    with Running("pull", "org/late", "-o", tmp_path / "copy", "--wait", 60, "--allow-code", "--json", *at) as early:
        early.event("waiting")
        with Running("share", folder, "--model", "org/late", "--allow-code", *at) as source:
            source.line("Sharing org/late")
            assert early.event("pulled")["bytes_reused"] == 0
            assert early.wait() == 0
            again = peerload("pull", "org/late", "-o", tmp_path / "copy", "--allow-code", *at)
            assert again.returncode == 0, again.stderr
            assert "moved 0 B" in again.stdout
            assert "2.0 MB" in again.stdout
    assert files(tmp_path / "copy") == files(folder)


def test_a_killed_pull_leaves_nothing_that_looks_complete_and_is_finished_by_the_same_command(
    server: LiveServer, folder: Path, tmp_path: Path
) -> None:
    at = ("--server", server.address)
    copy = tmp_path / "copy"
    with Running("share", folder, "-m", "org/killed", "--limit-rate", "1.5MB", "--json", *at) as source:
        source.event("sharing")
        with Running("pull", "org/killed", "-o", copy, "--json", *at) as pull:
            while pull.event("progress")["bytes_done"] < 600_000:
                pass
            pull.signal(signal.SIGKILL)
            assert pull.wait() == -signal.SIGKILL
        assert not [path for path in files(copy) if not path.startswith(".peerload/")]
        again = peerload("pull", "org/killed", "-o", copy, "--json", *at)
        assert again.returncode == 0, again.stderr
        pulled = json.loads(again.stdout.splitlines()[-1])
        assert pulled["bytes_reused"] >= 300_000
        assert pulled["bytes_moved"] + pulled["bytes_reused"] == pulled["bytes_total"]
    assert files(copy) == {path: content for path, content in files(folder).items() if path != "modeling.py"}


def test_what_people_read(server: LiveServer, folder: Path, tmp_path: Path) -> None:
    at = ("--server", server.address)
    with Running("share", folder, "-m", "org/shown", "--revision", "v1", *at) as source:
        line = source.line("Sharing org/shown")
        assert "2.0 MB in 3 files" in line
        (source_id,) = re.findall(r"source ([0-9a-f]{16})", line)

        listed = peerload("sources", *at)
        assert listed.returncode == 0, listed.stderr
        (row,) = [row for row in listed.stdout.splitlines() if "org/shown" in row]
        for word in ("checkpoint", "v1", source_id, "1 ready", "tcp", "2.0 MB"):
            assert word in row

        (worker,) = re.findall(r"worker ([0-9a-f]{8})", line)
        by_worker = peerload("sources", "org/shown", "--workers", "--ready", *at)
        assert worker in by_worker.stdout

        for name in ("org/shown", source_id):
            shown = peerload("show", name, *at)
            assert shown.returncode == 0, shown.stderr
            for word in (source_id, worker, "model.safetensors", "layer.0", "… 8 more tensors", "U8", "config.json"):
                assert word in shown.stdout, word
        everything = peerload("show", "org/shown", worker, "--all", *at)
        assert "layer.19" in everything.stdout
        assert "more tensors" not in everything.stdout

        pulled = peerload("pull", "org/shown", "-o", tmp_path / "copy", *at)
        assert re.search(
            r"Pulled org/shown to .*: moved 2.0 MB in .* reused 0 B; .* verified xxh3-128 of 21 items", pulled.stdout
        )
        for text in (listed, by_worker, shown, everything, pulled):
            assert not CONTROL.search(text.stdout + text.stderr)

        source.signal(signal.SIGTERM)
        source.line("Withdrawn.")
        assert source.wait() == 0
        assert any("Left out: modeling.py" in error for error in source.errors)


def test_what_programs_read(server: LiveServer, folder: Path) -> None:
    at = ("--server", server.address)
    with Running("watch", "org/watched", "--json", *at) as watch:
        with Running("share", folder, "-m", "org/watched", "--json", *at) as source:
            shared = source.event("sharing")
            seen = watch.event("present", worker_id=shared["worker_id"])
            assert (seen["status"], seen["form"], seen["total_size"]) == ("ready", "checkpoint", 2_000_022)

            (record,) = json.loads(peerload("sources", "org/watched", "--json", *at).stdout)
            assert record["worker_id"] == shared["worker_id"]
            assert record["content"] == shared["content"]

            shown = json.loads(peerload("show", "org/watched", "--json", *at).stdout)
            assert [file["path"] for file in shown["manifest"]["files"]] == [
                "config.json",
                "model.safetensors",
                "sub/empty.txt",
            ]
            assert [endpoint["engine"] for endpoint in shown["manifest"]["endpoints"]] == ["memfd", "tcp"]
            assert [endpoint["address"] for endpoint in shown["manifest"]["endpoints"]] == shared["addresses"]
            assert len(shown["manifest"]["items"]) == 21

            source.signal(signal.SIGINT)
            assert source.wait() == 0
        watch.event("gone", worker_id=shared["worker_id"])
        watch.signal(signal.SIGINT)
        assert watch.wait() == 130
        assert not "".join(watch.errors).strip()


def test_rm_removes_what_it_names_and_asks_before(server: LiveServer) -> None:
    at = ("--server", server.address)
    with Rpc(server.address) as rpc:
        source_id = rpc.publish(publication("org/removed", "worker-one")).mx_source_id
        rpc.publish(publication("org/removed", "worker-two"))
    unsure = peerload("rm", "org/removed", *at)
    assert unsure.returncode == 2
    assert "--yes" in unsure.stderr
    assert peerload("rm", source_id, "worker-", "--yes", *at).returncode == 1
    assert peerload("rm", source_id, "worker-t", "--yes", *at).stdout == "Removed 1 record.\n"
    assert "worker-o" in peerload("sources", "org/removed", "-w", *at).stdout
    removed = peerload("rm", "org/removed", "--yes", "--json", *at)
    assert json.loads(removed.stdout) == {
        "source_id": source_id,
        "worker_id": "worker-one",
        "worker_rank": 0,
        "removed": True,
    }
    assert peerload("rm", "org/removed", "--yes", *at).returncode == 3


def test_a_source_of_another_client_is_shown_and_passed_over(server: LiveServer, tmp_path: Path) -> None:
    at = ("--server", server.address)
    hostile = "org/\x1b[31mred\nrow"
    with Rpc(server.address) as rpc:
        rpc.publish(publication("org/stock", "8a7b6c5d"))
        rpc.publish(publication(hostile, "w\x1b]0;title\x07"))
    shown = peerload("show", "org/stock", *at)
    assert shown.returncode == 0
    assert "Published by another client" in shown.stderr
    listed = peerload("sources", *at)
    assert "org/stock" in listed.stdout
    assert "\\x1b[31mred\\nrow" in listed.stdout
    assert not CONTROL.search(listed.stdout)
    refused = peerload("pull", "org/stock", "-o", tmp_path / "copy", *at)
    assert refused.returncode in (1, 3)
    assert refused.stderr.startswith("peerload: ")


def test_sources_that_disagree_are_listed_and_nothing_is_moved(
    server: LiveServer, folder: Path, tmp_path: Path
) -> None:
    at = ("--server", server.address)
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text("{}")
    with (
        Running("share", folder, "-m", "org/two", "--json", *at) as one,
        Running("share", other, "-m", "org/two", "--json", *at) as two,
    ):
        contents = [running.event("sharing")["content"] for running in (one, two)]
        refused = peerload("pull", "org/two", "-o", tmp_path / "copy", *at)
        assert refused.returncode == 1
        assert all(content[:8] in refused.stderr for content in contents)
        assert peerload("show", "org/two", *at).returncode == 1
        chosen = peerload("pull", "org/two", "-o", tmp_path / "copy", "--content", contents[1][:8], *at)
        assert chosen.returncode == 0, chosen.stderr
    assert files(tmp_path / "copy") == files(other)


@pytest.mark.parametrize("command", [("watch",), ("pull", "x", "-o", "y")])
def test_a_server_that_does_not_answer_is_named(command: tuple[str, ...], tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    ended = peerload(*command, settings={"MODEL_EXPRESS_URL": f"http://{address}"})
    assert ended.returncode == 4
    assert address in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


def test_wrong_usage_and_wrong_folders_are_told_in_a_line(server: LiveServer, tmp_path: Path) -> None:
    at = ("--server", server.address)
    assert peerload("pull", "org/x", "--local-dir", tmp_path, "--or-download").returncode == 2
    assert peerload("share").returncode == 2
    assert peerload("no-such-command").returncode == 2
    for command, word in (
        (("share", tmp_path / "nowhere", "-m", "org/x", *at), "nowhere"),
        (("share", tmp_path, *at), "model: is missing (--model ORG/NAME)"),
        (("share", tmp_path, "-m", "org/x", "--limit-rate", "fast", *at), "--limit-rate"),
        (("sources", "--server", "host:99999"), "host:99999"),
    ):
        ended = peerload(*command)
        assert ended.returncode == 1
        assert word in ended.stderr
        assert len(ended.stderr.splitlines()) == 1, ended.stderr
    nobody = peerload("pull", "org/x", "-o", tmp_path / "copy", "--content", "abc", *at)
    assert nobody.returncode == 3
    assert nobody.stderr.startswith(
        "peerload: nobody has 'org/x', in checkpoint form, with a content that begins with 'abc'\n"
    )
    assert "`peerload explain`" in nobody.stderr
    debugged = peerload("share", tmp_path / "nowhere", "-m", "org/x", *at, settings={"PEERLOAD_DEBUG": "1"})
    assert "Traceback" in debugged.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    shown = CliRunner().invoke(build_app([name]), [name, "--help"], prog_name="peerload")
    assert shown.exit_code == 0
    assert f"Usage: peerload {name}" in shown.stdout
    assert not CONTROL.search(shown.stdout)


def test_the_overview_names_every_command_without_loading_any() -> None:
    overview = peerload("--help")
    text = " ".join(overview.stdout.split())
    for command in COMMANDS.values():
        assert command.summary in text
    assert not CONTROL.search(overview.stdout)


INTERRUPTED_AT_AN_IMPORT = """
import os, signal, sys
from importlib.metadata import entry_points

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
sys.argv = ["peerload", {command!r}]
(program,) = entry_points(group="console_scripts", name="peerload")
program.load()()
"""


@pytest.mark.parametrize(
    ("command", "module"),
    [
        ("sources", "typer"),
        ("sources", "peerload.cli.sources"),
        ("sources", "grpc"),
        ("serve", "typer"),
        ("serve", "pydantic_settings"),
        ("serve", "peerload.server.serving"),
    ],
)
def test_ctrl_c_at_once_after_the_start_shows_no_traceback(command: str, module: str) -> None:
    code = INTERRUPTED_AT_AN_IMPORT.format(command=command, module=module)
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        env=environment(),
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
