"""The settings as they were given, and where each of them came from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource

from peerload.errors import InvalidArgument
from peerload.server.deployed import DeployedSource, check_enforced, refuse_what_is_not_here
from peerload.server.settings import PREFIX, Settings

__all__ = ["Resolved", "resolve"]

_DEFAULT: Final = "default"


@dataclass(frozen=True, slots=True)
class Resolved:
    """Settings, and for each by name: the flag or variable it was taken from, or `default`."""

    settings: Settings
    origins: Mapping[str, str]

    def table(self) -> list[tuple[str, str | float, str]]:
        """Each setting's name, value and origin, fit to be shown: a password in the store's URL is left out."""
        values: dict[str, str | float] = {**self.settings.model_dump(), "store": _without_password(self.settings.store)}
        return [(name, value, self.origins[name]) for name, value in values.items()]

    def named(self, error: InvalidArgument) -> InvalidArgument:
        """The same error, whose field is the flag or variable that the setting was taken from."""
        origin = self.origins.get(error.field, _DEFAULT)
        if origin == _DEFAULT:
            return error
        return InvalidArgument(origin, str(error).removeprefix(f"{error.field}: "))


def _without_password(url: str) -> str:
    """A URL fit to be shown. A password may hold the characters that end it, so it goes on to the last @."""
    shown = re.sub(r"(//[^/@:]*):.*@", r"\1:***@", url, flags=re.DOTALL)
    return re.sub(r"([?&][^=&]*password[^=&]*)=[^&]*", r"\1=***", shown, flags=re.IGNORECASE)


def resolve(flags: Mapping[str, Any]) -> Resolved:
    """The settings from these flags (None: not given) and the environment.

    Raises `InvalidArgument` whose field is the flag or variable that is wrong.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    origins = _origins(given)
    refuse_what_is_not_here()
    try:
        settings = Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        text = first["msg"].removeprefix("Value error, ")
        raise InvalidArgument(
            origins.get(name, name), f"{text[:1].lower()}{text[1:]} (it is {str(first['input'])[:200]!r})"
        ) from None
    check_enforced(settings.audiences, settings.accounts)
    resolved = Resolved(settings, origins)
    try:
        _ = settings.tls
        if settings.ui_address is not None and settings.processes > 1:
            # Each would see the transfers of its own clients alone.
            raise InvalidArgument("ui", "is for a server of one process; --processes asks for more")
    except InvalidArgument as error:
        raise resolved.named(error) from None
    return resolved


def _origins(given: Mapping[str, Any]) -> dict[str, str]:
    ours = EnvSettingsSource(Settings)()
    deployed = DeployedSource.found()
    origins: dict[str, str] = {}
    for name in Settings.model_fields:
        if name in given:
            origins[name] = f"--{name.replace('_', '-')}"
        elif name in ours:
            origins[name] = f"{PREFIX}{name.upper()}"
        elif name in deployed:
            origins[name] = deployed[name][1]
        else:
            origins[name] = _DEFAULT
    return origins
