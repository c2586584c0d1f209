"""What says where the API server is and who we are: the service account of a Pod, or kubeconfig files."""

from __future__ import annotations

import asyncio
import base64
import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from peerload.errors import InvalidArgument, MissingExtra
from peerload.kubernetes.place import KubernetesPlace
from peerload.kubernetes.plugin import Credential, run_plugin

__all__ = ["SERVICE_ACCOUNT", "Found", "find"]

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, slots=True)
class Found:
    """What a configuration says. Files are named, and only the token's has been read."""

    server: str
    """https://HOST:PORT, or with a path after it where a gateway stands before several clusters."""
    namespace: str = "default"
    authorization: str = field(default="", repr=False)
    """The header; empty: none."""
    authority: str = ""
    certificate: str = ""
    key: str = ""
    server_name: str = ""
    """What the server's certificate is for, where that is not its address."""
    proxy: str = field(default="", repr=False)
    verify: bool = True
    expires_ms: float | None = None
    files: tuple[Path, ...] = ()
    """What was read for it, or will be."""


async def find(place: KubernetesPlace, environment: Mapping[str, str], service_account: Path) -> Found:
    """The first of: what the place names, $KUBECONFIG, the Pod's service account, ~/.kube/config. Raises
    `InvalidArgument` where there is none or it cannot be used, `Unauthorized` where a credential plugin fails."""
    paths = place.kubeconfig or environment.get("KUBECONFIG", "")
    if not paths and not place.context and "KUBERNETES_SERVICE_HOST" in environment:
        return _of_pod(environment, service_account)
    if not paths:
        paths = _usual(environment)
    return await _of_kubeconfig(paths, place.context, environment)


def _usual(environment: Mapping[str, str]) -> str:
    path = Path(environment.get("HOME", "~")).expanduser() / ".kube" / "config"
    if not path.exists():
        raise InvalidArgument(
            "store",
            f"finds no cluster: this is no Pod with a service account, $KUBECONFIG is not set, and {path} is not there",
        )
    return str(path)


def _of_pod(environment: Mapping[str, str], folder: Path) -> Found:
    # Two variables and two files: the library, which would do the same, is not needed for them.
    host, port = environment["KUBERNETES_SERVICE_HOST"], environment.get("KUBERNETES_SERVICE_PORT", "443")
    token, authority, namespace = folder / "token", folder / "ca.crt", folder / "namespace"
    try:
        secret = token.read_text().strip()
        home = namespace.read_text().strip() if namespace.exists() else "default"
        authority.stat()
    except (OSError, UnicodeDecodeError) as error:
        words = getattr(error, "strerror", None) or "it is not text"
        raise InvalidArgument(
            "store", f"the Pod's service account cannot be used: {folder}: {words} (automountServiceAccountToken?)"
        ) from error
    if not secret or not _HEADER.fullmatch(secret):
        raise InvalidArgument("store", f"the Pod's service account cannot be used: {token} holds no token")
    return Found(
        server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        namespace=home or "default",
        authorization=f"Bearer {secret}",
        authority=str(authority),
        files=(token, authority),
    )


_HEADER: Final = re.compile(r"[\x21-\x7e]+")


async def _of_kubeconfig(paths: str, context: str, environment: Mapping[str, str]) -> Found:
    library = await asyncio.to_thread(_library)
    try:
        return await _read(library, paths, context, environment)
    except library.ConfigException as error:
        raise InvalidArgument("store", f"kubeconfig {paths}: {_said(str(error))}") from None
    except library.yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark else ""
        raise InvalidArgument("store", f"kubeconfig {paths} is not YAML{where}") from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise InvalidArgument("store", f"kubeconfig {paths}: {where}{error.strerror}") from None
    except ImportError as error:
        raise InvalidArgument("store", f"kubeconfig {paths}: its auth-provider needs {error.name}") from None
    except (KeyError, TypeError, AttributeError, ValueError):  # the library trusts in the form of what it reads
        raise InvalidArgument("store", f"kubeconfig {paths} is malformed") from None


def _library() -> ModuleType:
    try:
        return importlib.import_module("kubernetes.aio.config.kube_config")
    except ImportError:
        raise MissingExtra("asking Kubernetes", "kubernetes") from None


async def _read(library: ModuleType, paths: str, context: str, environment: Mapping[str, str]) -> Found:
    merged = await asyncio.to_thread(library.KubeConfigMerger, paths)
    config = merged.config
    if config is None:
        raise InvalidArgument("store", f"kubeconfig {paths}: there is no such file")
    chosen = config["contexts"].get_with_name(context or config["current-context"])["context"]
    cluster = config["clusters"].get_with_name(chosen["cluster"])["cluster"]
    server = cluster["server"].rstrip("/")
    if not _SERVER.fullmatch(server):
        raise InvalidArgument("store", f"kubeconfig {paths}: its server must be https://HOST:PORT")
    user, folder = _user(library, config, chosen)
    credential = Credential()
    if "exec" in user:
        # Ours: the library's has no deadline, and where the plugin fails it goes on without credentials.
        credential = await run_plugin(user.pop("exec"), cluster.value, folder, environment)
        if credential.token:
            user["token"] = credential.token
        if credential.certificate:
            user["client-certificate-data"] = base64.b64encode(credential.certificate.encode()).decode()
            user["client-key-data"] = base64.b64encode(credential.key.encode()).decode()
    said = library.Configuration()
    await library.KubeConfigLoader(config, context or None, config_base_path=None).load_and_set(said)
    files = [*merged.paths, said.ssl_ca_cert, said.cert_file, said.key_file]
    if "tokenFile" in user:
        files.append(folder / user["tokenFile"])
    authorization = " ".join(said.api_key.get("BearerToken", "").split())  # a token's file ends with a newline
    if not all(map(_HEADER.fullmatch, authorization.split())):
        raise InvalidArgument("store", f"kubeconfig {paths}: the token has characters that no token has")
    return Found(
        server=server,
        namespace=chosen.safe_get("namespace") or "default",
        authorization=authorization,
        authority=said.ssl_ca_cert or "",
        certificate=said.cert_file or "",
        key=said.key_file or "",
        server_name=said.tls_server_name or "",
        proxy=said.proxy or "",
        verify=said.verify_ssl,
        expires_ms=credential.expires_ms,
        files=tuple(Path(file) for file in files if file),
    )


def _user(library: ModuleType, config: Any, chosen: Any) -> tuple[dict[str, Any], Path]:
    """What the kubeconfig says of the context's user, to be changed in place, and what its paths are relative to."""
    name = chosen.safe_get("user") or ""
    node = config["users"].get_with_name(name) if name else None
    if node is None:  # the library cannot read a context without a user
        chosen.value["user"] = name = "nobody"
        node = library.ConfigNode("users", {"name": name}, config.path)
        config.value["users"] = [node]
    node.value["user"] = user = dict(node.value.get("user") or {})
    return user, Path(node.path).resolve().parent


_SERVER: Final = re.compile(r"https?://[^@/?#\s]+(/[^?#\s]*)?")
_LACKS: Final = re.compile(r"Expected key (\S+) in")
_UNKNOWN: Final = re.compile(r"Expected object with name (.{1,100}?) in \S+?/(\w+) list")
_NO_FILE: Final = re.compile(r"File does not exists: (.*)")


def _said(words: str) -> str:
    """What the library found, without the contents of the file, which it likes to quote."""
    if found := _LACKS.search(words):
        return f"lacks {found[1]}"
    if found := _UNKNOWN.search(words):
        return f"has no {found[1]} in its {found[2]}"
    if found := _NO_FILE.fullmatch(words):
        return f"there is no file {found[1]}"
    return "is malformed"
