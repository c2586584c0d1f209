"""What was found about one part of a deployment."""

from __future__ import annotations

from dataclasses import dataclass

from peerload.finding import Finding, Level, worst

__all__ = ["Part"]


@dataclass(frozen=True, slots=True)
class Part:
    """A part by name, and its findings: at least one."""

    name: str
    findings: tuple[Finding, ...]

    @property
    def level(self) -> Level:
        """The level that matters most."""
        return worst(self.findings)
