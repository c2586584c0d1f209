"""What docs/security.md says is so: the access file that it shows, who may call what, the limits."""

from __future__ import annotations

import re
from pathlib import Path

from peerload.metadata.principals import Role
from peerload.server.deployed import DeployedSource
from peerload.server.security.access import parse
from peerload.server.security.roles import ROLES
from peerload.server.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
WHOLE = (ROOT / "docs" / "security.md").read_text()
PAGE, _, LIMITS = WHOLE.partition("\n## Authentication\n")[2].partition("\n## Limits\n")


def row(first: str, text: str = PAGE) -> str:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {first} |")]
    return line


def test_the_access_file_that_is_shown_is_one() -> None:
    (shown,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    access = parse(shown)
    assert (len(access.tokens), len(access.service_accounts), len(access.certificates)) == (1, 1, 1)


def test_who_may_call_what() -> None:
    for role in (Role.READ, Role.PUBLISH):
        named = set(re.findall(r"`(\w+)`", row(role.name.lower())))
        methods = {path.rpartition("/")[2] for path, needed in ROLES.items() if needed is role}
        if role is Role.READ:
            methods.discard("ServerReflectionInfo")
            assert "reflection" in row("read")
        else:
            methods -= {"Acquire", "Renew", "Release"}
            assert "claims" in row("publish")
        assert named == methods
    assert Role.ADMIN not in ROLES.values()


def test_settings_and_their_defaults() -> None:
    for name in ("limit_principal_records", "limit_tensors"):
        assert f"| {Settings.model_fields[name].default} |" in row(f"`--{name.replace('_', '-')}`", LIMITS)
    named = {name.removeprefix("--").replace("-", "_") for name in re.findall(r"`(--[a-z-]+)`", PAGE)}
    assert {"access", "token_audiences", "service_accounts", "token_cache_ttl"} <= named <= set(Settings.model_fields)


def test_the_names_of_deployments_are_those_that_are_read() -> None:
    text = Path(str(DeployedSource.__module__.replace(".", "/"))).with_suffix(".py")
    source = (ROOT / "src" / text).read_text()
    for name in re.findall(r"MODEL_EXPRESS_SECURITY_\w+", PAGE):
        assert f'"{name}"' in source
