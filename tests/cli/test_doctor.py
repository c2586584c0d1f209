"""`peerload doctor` as it is run: exit statuses, what it writes, which store it takes, and that a signal leaves nothing."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.commands import Running, peerload
from tests.support.redis import RedisProcess, free_port, redis_process


def report(*words: object, settings: dict[str, str] | None = None, status: int) -> dict[str, Any]:
    done = peerload("doctor", "--json", *words, settings=settings)
    assert done.returncode == status, done.stdout + done.stderr
    assert done.stderr == ""
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_what_people_read(tmp_path: Path) -> None:
    done = peerload("doctor", "--store", f"sqlite:{tmp_path}/peerload.sqlite", settings={"NO_COLOR": "1"})
    assert done.returncode == 0, done.stderr
    first, header, *rows, verdict = done.stdout.splitlines()
    assert first == f"Store sqlite:{tmp_path}/peerload.sqlite"
    assert header.split() == ["LEVEL", "FOUND"]
    assert {row.split()[0] for row in rows} <= {"ok", "warning"}
    assert verdict.startswith("Servers can use it")
    assert "\x1b" not in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_problem_and_what_programs_read(tmp_path: Path) -> None:
    found = report("--store", f"sqlite:{tmp_path}", status=1)
    assert found["level"] == found["store"]["level"] == "problem"
    assert (found["store"]["url"], found["store"]["reached"], found["store"]["rehearsed"]) == (
        f"sqlite:{tmp_path}",
        True,
        False,
    )
    (finding,) = found["store"]["findings"]
    assert finding.keys() == {"level", "what", "advice"}
    assert finding["level"] == "problem"
    done = peerload("doctor", "--store", f"sqlite:{tmp_path}")
    assert done.stdout.splitlines()[-2:] == [
        "Servers cannot use it: 1 problem.",
        "Writing was not tried: mend this first, and ask again.",
    ]


def test_the_store_is_the_servers_and_no_password_is_shown(shared_redis: RedisProcess, tmp_path: Path) -> None:
    shared_redis.ask("ACL", "SETUSER", "doctors", "on", ">secretword", "~*", "+@all")
    url = f"redis://doctors:secretword@127.0.0.1:{shared_redis.port}"
    found = report(settings={"MX_METADATA_BACKEND": "redis", "REDIS_URL": url}, status=0)
    assert found["store"]["url"] == f"redis://doctors@127.0.0.1:{shared_redis.port}"
    found = report(settings={"PEERLOAD_STORE": url.replace("secretword", "wrongword")}, status=1)
    assert "password" in found["store"]["findings"][0]["what"]
    assert "word@" not in str(found)
    found = report(settings={"XDG_STATE_HOME": str(tmp_path)}, status=0)
    assert found["store"]["url"] == f"sqlite:{tmp_path}/peerload/peerload.sqlite"
    shared_redis.ask("ACL", "DELUSER", "doctors")


def test_a_store_that_is_not_there() -> None:
    found = report("--store", f"redis://127.0.0.1:{free_port()}", status=4)
    assert found["store"]["reached"] is False
    assert found["level"] == "problem"


@pytest.mark.parametrize(
    ("words", "settings", "said"),
    [
        (("--store", "what:ever"), {}, "what: is not a store"),
        (("--store", "redis://:secret@host?sekret=1"), {}, "knows no setting"),
        ((), {"MX_METADATA_BACKEND": "etcd"}, "must be one of redis, kubernetes, k8s, crd"),
        (("--nothing",), {}, "No such option"),
    ],
)
def test_wrong_usage(words: tuple[str, ...], settings: dict[str, str], said: str) -> None:
    done = peerload("doctor", *words, settings=settings)
    assert done.returncode == 2
    assert said in done.stderr
    assert "secret" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_nothing(tmp_path: Path, number: int, status: int) -> None:
    with redis_process(tmp_path / "redis") as redis:
        for _ in range(10):
            with Running("doctor", "--store", redis.url) as doctor:
                while not redis.ask("KEYS", "*doctor-*:entries") and not doctor.ended:
                    time.sleep(0.001)
                redis.ask("CLIENT", "PAUSE", 60_000, "WRITE")  # its next write waits
                doctor.signal(number)
                redis.ask("CLIENT", "UNPAUSE")
                ended = doctor.wait()
            assert redis.ask("KEYS", "*") == []
            if ended != 0:  # else it had nothing more to write
                break
        assert ended == status
