"""Credential plugins: the programs that a kubeconfig names under `exec`, as kubectl runs them.

https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from peerload.errors import InvalidArgument
from peerload.kubernetes.trouble import Unauthorized

__all__ = ["Credential", "run_plugin"]

_SECONDS: Final = 60.0
_QUOTED: Final = 200
_MOST_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Credential:
    """What a plugin gave."""

    token: str = field(default="", repr=False)
    certificate: str = field(default="", repr=False)
    key: str = field(default="", repr=False)
    expires_ms: float | None = None
    """Milliseconds since 1970; None: it did not say."""


async def run_plugin(
    spec: Mapping[str, Any], cluster: Mapping[str, Any], folder: Path, environment: Mapping[str, str]
) -> Credential:
    """Run it, without a terminal. Raises `InvalidArgument` for a section `exec` that cannot be used, and `Unauthorized`
    where the program fails. A relative command is looked for beside the kubeconfig, in `folder`."""
    command, version = spec.get("command"), spec.get("apiVersion")
    if not isinstance(command, str) or not command or not isinstance(version, str):
        raise InvalidArgument("store", "the kubeconfig's exec section needs command and apiVersion")
    if spec.get("interactiveMode") == "Always":
        raise InvalidArgument("store", f"the credential plugin {command} wants a terminal (interactiveMode: Always)")
    program = str(folder / command) if "/" in command else command
    asked: dict[str, Any] = {"interactive": False}
    if spec.get("provideClusterInfo"):
        asked["cluster"] = dict(cluster)
    added = {str(each["name"]): str(each["value"]) for each in spec.get("env") or ()}
    info = {"apiVersion": version, "kind": "ExecCredential", "spec": asked}
    try:
        process = await asyncio.create_subprocess_exec(
            program,
            *(str(argument) for argument in spec.get("args") or ()),
            env={**environment, **added, "KUBERNETES_EXEC_INFO": json.dumps(info)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        hint = spec.get("installHint")
        advice = f"; {' '.join(str(hint).split())[:_QUOTED]}" if hint else ""
        raise Unauthorized(f"the credential plugin {command} cannot be run: {error.strerror}{advice}") from error
    try:
        async with asyncio.timeout(_SECONDS):
            output, errors = await process.communicate()
    except TimeoutError:
        raise Unauthorized(f"the credential plugin {command} did not end within {_SECONDS:.0f} s") from None
    finally:
        with contextlib.suppress(ProcessLookupError):  # it, and what it has started
            os.killpg(process.pid, 9)
        await process.wait()
    if process.returncode:
        words = " ".join(errors.decode(errors="replace").split())[-_QUOTED:]
        raise Unauthorized(f"the credential plugin {command} failed (exit status {process.returncode}): {words}")
    return _read(command, version, output)


def _read(command: str, version: str, output: bytes) -> Credential:
    """What it printed. No word of that is quoted: it holds a secret."""
    try:
        if len(output) > _MOST_BYTES:
            raise ValueError
        answer = json.loads(output)
        status = answer["status"]
        given = answer["apiVersion"]
        credential = Credential(
            token=status.get("token") or "",
            certificate=status.get("clientCertificateData") or "",
            key=status.get("clientKeyData") or "",
            expires_ms=_moment(status.get("expirationTimestamp")),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Unauthorized(f"the credential plugin {command} printed no ExecCredential") from None
    if given != version:
        raise Unauthorized(f"the credential plugin {command} speaks another version than the kubeconfig's {version}")
    if not credential.token and not (credential.certificate and credential.key):
        raise Unauthorized(f"the credential plugin {command} gave neither a token nor a certificate and its key")
    return credential


def _moment(text: str | None) -> float | None:
    if not text:
        return None
    moment = dt.datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError
    return moment.timestamp() * 1_000.0
