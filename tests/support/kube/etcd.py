"""A real etcd, of one member or of several."""

from __future__ import annotations

import base64
import http.client
import json
import shutil
from pathlib import Path
from typing import Any

from tests.support.kube.programs import Program
from tests.support.ports import free_port

__all__ = ["Etcd", "etcd_members"]


class Etcd(Program):
    """One member."""

    def __init__(self, folder: Path, name: str, ports: dict[str, tuple[int, int]]) -> None:
        super().__init__(folder, "etcd", self._words, self._answers)
        self._member = name
        self._ports = ports

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._ports[self._member][0]}"

    def _words(self) -> list[str]:
        peers = {name: f"http://127.0.0.1:{peer}" for name, (_, peer) in self._ports.items()}
        return [
            *("--name", self._member, "--data-dir", str(self.folder / "data"), "--unsafe-no-fsync"),
            *("--listen-client-urls", self.url, "--advertise-client-urls", self.url),
            *("--listen-peer-urls", peers[self._member], "--initial-advertise-peer-urls", peers[self._member]),
            *("--initial-cluster", ",".join(f"{name}={url}" for name, url in peers.items())),
            *("--log-level", "warn"),
        ]

    def ask(self, path: str, body: dict[str, Any] | None = None, *, timeout: float = 5.0) -> Any:
        """One request of its JSON gateway: `/v3/kv/range` and the like. Raises OSError where it does not answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self._ports[self._member][0], timeout=timeout)
        try:
            connection.request("POST", path, json.dumps(body or {}), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            data = json.loads(answer.read())
        except (http.client.HTTPException, ValueError) as error:
            raise ConnectionResetError(str(error)) from error
        finally:
            connection.close()
        if answer.status != 200:
            raise ConnectionError(str(data))
        return data

    def _answers(self) -> bool:
        try:
            self.ask("/v3/kv/range", {"key": base64.b64encode(b"ready").decode()})  # needs a leader
        except OSError:
            return False
        return True

    def compact(self) -> int:
        """Forget the history up to now: readers of anything older are told that it is gone. Returns the revision."""
        revision = int(self.ask("/v3/kv/range", {"key": base64.b64encode(b"revision").decode()})["header"]["revision"])
        self.ask("/v3/kv/compaction", {"revision": revision, "physical": True})
        return revision

    def forget(self) -> None:
        """Remove all that it has kept; it must not run."""
        assert not self.running
        shutil.rmtree(self.folder / "data", ignore_errors=True)


def etcd_members(folder: Path, members: int) -> list[Etcd]:
    """The members of one etcd, none of them started."""
    names = [f"etcd{number}" for number in range(members)]
    ports = {name: (free_port(), free_port()) for name in names}
    return [Etcd(folder / name, name, ports) for name in names]
