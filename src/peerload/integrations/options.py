"""What an engine's loader is told, and the tensors that it is then given."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final, Self

import peerload
from peerload.errors import InvalidArgument

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LoadOptions", "is_read_by_engines"]

_FRAMEWORK: Final = "pt"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """An engine's options for loading from peers, such as the members of vLLM's `--model-loader-extra-config`."""

    server: str | None = None
    """`HOST:PORT`; where it is not given, PEERLOAD_SERVER and its like are asked, as everywhere."""
    wait: float = 0.0
    """Seconds to wait for a source to appear."""
    timeout: float | None = None
    """Seconds that a pull may take in all."""
    names: Mapping[str, str] = field(default_factory=dict)
    """The names by which peers know what the engine knows by another, such as a local folder."""
    content: str = ""
    """What the content digest begins with, where sources of one name differ."""
    fallback: bool = True
    """Whether to load from disk what no peer can give; else the start fails."""

    def __post_init__(self) -> None:
        if not isinstance(self.names, Mapping):
            raise InvalidArgument("names", f"{self.names!r} is not a mapping of the engine's names to the peers'")

    @classmethod
    def take_from(cls, extra: dict[str, Any]) -> Self:
        """The options among `extra`, which loses them; what it keeps is for somebody else."""
        return cls(**{each.name: extra.pop(each.name) for each in fields(cls) if each.name in extra})

    def tensors(self, model: str, revision: str | None) -> Generator[tuple[str, Tensor], None, None]:
        """The tensors of a checkpoint, each verified, in the order of its files. `model` is the engine's name for it.

        Raises what `Client.iter_weights` does, in the middle too.
        """
        with peerload.Client(self.server) as client:
            yield from client.iter_weights(
                self.names.get(model, model),
                revision=revision,
                form=peerload.Form.CHECKPOINT,
                content=self.content,
                wait=self.wait,
                timeout=self.timeout,
                files=is_read_by_engines,
                framework=_FRAMEWORK,
            )


def is_read_by_engines(path: str) -> bool:
    """Whether an engine would load a safetensors file of that path: it passes over what lies in subfolders (other
    models, other formats), and here also over the copy in Mistral's own format."""
    return "/" not in path and not path.startswith("consolidated")
