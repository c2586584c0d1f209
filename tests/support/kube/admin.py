"""A plain synchronous client of the API server, which may do everything."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import yaml

from tests.support.live import eventually

__all__ = ["Admin", "KubeRefused", "Stream"]

_REQUESTS = re.compile(r"apiserver_request_total\{(.*)\} (\S+)")
_LABEL = re.compile(r'(\w+)="([^"]*)"')
_WRITES = ("POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION")


class KubeRefused(Exception):
    """What the API server answered that is not a success."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(f"{code} {reason}: {message}")
        self.code = code
        self.reason = reason


class Stream(Iterator[Any]):
    """A watch's events. Raises TimeoutError where none comes in time."""

    def __init__(self, answer: http.client.HTTPResponse, wire: socket.socket) -> None:
        assert answer.status == 200, answer.read()
        self._answer = answer
        self._wire = wire

    def settimeout(self, seconds: float) -> None:
        self._wire.settimeout(seconds)

    def __next__(self) -> Any:
        line = self._answer.readline()
        if not line:
            raise StopIteration
        return json.loads(line)


class Admin:
    """Requests on connections of their own. Raises OSError where nobody answers, and KubeRefused for what is refused."""

    def __init__(self, port: int, authority: Path, token: str) -> None:
        self.port = port
        self.token = token
        self._trust = ssl.create_default_context(cafile=str(authority))
        self._plurals: dict[tuple[str, str], tuple[str, bool]] = {}

    def present(self, certificate: Path, key: Path) -> None:
        """Come with a client's certificate."""
        self._trust.load_cert_chain(certificate, key)

    def text(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        content_type: str = "application/json",
        accept: str = "application/json",
        timeout: float = 30.0,
        **query: object,
    ) -> bytes:
        """The body of an answer."""
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=timeout, context=self._trust)
        headers = {**self._headers(), "Content-Type": content_type, "Accept": accept}
        try:
            where = f"{path}?{urlencode(query)}" if query else path
            connection.request(method, where, json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            data = answer.read()
        except http.client.HTTPException as error:
            raise ConnectionResetError(str(error)) from error
        finally:
            connection.close()
        if answer.status >= 300:
            try:
                status = json.loads(data)
            except ValueError:
                status = {"message": data.decode(errors="replace")}
            raise KubeRefused(answer.status, status.get("reason", ""), status.get("message", ""))
        return data

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    @contextlib.contextmanager
    def stream(self, path: str, *, timeout: float = 30.0) -> Iterator[Stream]:
        """The events of a watch, as they come."""
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=timeout, context=self._trust)
        try:
            connection.request("GET", path, headers=self._headers())
            wire = connection.sock
            yield Stream(connection.getresponse(), wire)
        finally:
            connection.close()

    def ask(self, method: str, path: str, body: object = None, **more: Any) -> Any:
        """The parsed body of an answer."""
        return json.loads(self.text(method, path, body, **more))

    def get(self, path: str, **query: object) -> Any:
        return self.ask("GET", path, **query)

    def post(self, path: str, body: object, **query: object) -> Any:
        return self.ask("POST", path, body, **query)

    def delete(self, path: str, **query: object) -> Any:
        return self.ask("DELETE", path, **query)

    def trust_anybody(self) -> None:
        """For a server that signs for itself."""
        self._trust.check_hostname = False
        self._trust.verify_mode = ssl.CERT_NONE

    def ready(self, path: str = "/readyz") -> bool:
        """Whether the server says that it serves."""
        try:
            self.text("GET", path, timeout=5.0)
        except (OSError, KubeRefused):
            return False
        return True

    def writes(self) -> int:
        """How many requests would have changed Peerload's records, or a ConfigMap, by the API server's own count."""
        total = 0
        for line in self.text("GET", "/metrics").decode().splitlines():
            if (match := _REQUESTS.match(line)) is None:
                continue
            labels = dict(_LABEL.findall(match[1]))
            ours = labels["group"] == "peerload.dev" or (labels["group"], labels["resource"]) == ("", "configmaps")
            if ours and labels["verb"] in _WRITES:
                total += int(float(match[2]))
        return total

    def apply(self, documents: str) -> None:
        """What `kubectl apply --server-side` does with YAML; kinds that it defines are served once this returns."""
        for document in yaml.safe_load_all(documents):
            if document:
                self._apply(document)

    def _apply(self, document: dict[str, Any]) -> None:
        metadata = document["metadata"]
        path = self.path(document["apiVersion"], document["kind"], metadata.get("namespace"), metadata["name"])
        kind = "application/apply-patch+yaml"  # of which JSON is a part
        self.ask("PATCH", path, document, content_type=kind, fieldManager="tests", force="true")
        if document["kind"] == "CustomResourceDefinition":
            self._await_kind(document["spec"])

    def _await_kind(self, spec: dict[str, Any]) -> None:
        path = f"/apis/{spec['group']}/{spec['versions'][0]['name']}/{spec['names']['plural']}"

        def served() -> bool:
            try:
                self.get(path, limit=1)
            except KubeRefused as refused:
                if refused.code not in (404, 429, 503):
                    raise
                return False
            return True

        eventually(served, what=path)

    def path(self, version: str, kind: str, namespace: str | None, name: str) -> str:
        """Where an object is."""
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        if (version, kind) not in self._plurals:
            for each in self.get(root)["resources"]:
                if "/" not in each["name"]:
                    self._plurals[version, each["kind"]] = (each["name"], each["namespaced"])
        plural, namespaced = self._plurals[version, kind]
        return f"{root}/namespaces/{namespace}/{plural}/{name}" if namespaced else f"{root}/{plural}/{name}"
