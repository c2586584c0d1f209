"""vLLM: `--load-format peerload` loads a model from a peer's memory, and from disk as ever where that cannot be.

vLLM calls `register` in each of its processes (entry-point group `vllm.general_plugins`). What comes from a peer are a
checkpoint's tensors, each verified, so every rank may take its part of them, at any parallelism. The rest is done by vLLM's own
loader: it asks for the tensors by `get_all_weights`, and sees to it that no parameter is left out.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from vllm.logger import init_logger
from vllm.model_executor.model_loader import DefaultModelLoader, register_model_loader

from peerload.errors import PullFailed, Unavailable
from peerload.integrations.options import LoadOptions

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["PeerloadModelLoader", "register"]

_logger: Final = init_logger("vllm.peerload")  # below "vllm", whose handlers show it


def register() -> None:
    """Tell this process's vLLM what `--load-format peerload` is."""
    register_model_loader("peerload")(PeerloadModelLoader)


class PeerloadModelLoader(DefaultModelLoader):  # type: ignore[misc]  # vLLM is absent where types are checked
    """Loads what a peer has, and everything else as vLLM does by default.

    `--model-loader-extra-config` has the members of `LoadOptions`, and those of vLLM's own loader.
    """

    def __init__(self, load_config: Any) -> None:
        extra = dict(load_config.model_loader_extra_config)
        self._options = LoadOptions.take_from(extra)
        self._peer: Iterator[tuple[str, Tensor]] | None = None
        self._taken = 0  # tensors of the peer's that the model has been given
        super().__init__(replace(load_config, load_format="auto", model_loader_extra_config=extra))

    def load_weights(self, model: nn.Module, model_config: Any) -> None:
        """Fill the model from a peer, or from disk with one line that says why.

        After a pull that failed midway everything is loaded from disk, over what had come. Raises what vLLM's own loader
        raises, and without `fallback` what `Client.iter_weights` does.
        """
        self._taken = 0
        try:
            _check(model, model_config)
            with closing(self._pull(model_config)) as self._peer:
                super().load_weights(model, model_config)
            _logger.info("peerload: %d tensors of %s came from a peer", self._taken, model_config.model)
        except (PullFailed, Unavailable) as error:
            # A layer that is quantized while it loads takes its weights once, and ignores them after that.
            if not self._options.fallback or (self._taken and _quantizes_while_loading(model)):
                raise
            _logger.warning("peerload: loading %s from disk: %s", model_config.model, " ".join(str(error).split()))
            self._peer = None
            super().load_weights(model, model_config)
        finally:
            self._peer = None

    def get_all_weights(self, model_config: Any, model: nn.Module) -> Iterator[tuple[str, Tensor]]:
        """The tensors by name: the peer's while `load_weights` reads from one, else the disk's."""
        return self._peer or super().get_all_weights(model_config, model)

    def _pull(self, model_config: Any) -> Generator[tuple[str, Tensor], None, None]:
        self.counter_before_loading_weights = perf_counter()  # for vLLM's own line, which says how long it took
        asked_for = getattr(model_config.revision, "initial", model_config.revision)  # before vLLM resolved it
        for tensor in self._options.tensors(model_config.model, asked_for):
            self._taken += 1
            yield tensor


def _check(model: nn.Module, model_config: Any) -> None:
    """Raise `PullFailed` for what is more than a checkpoint's tensors one after the other."""
    if getattr(model, "secondary_weights", ()) or getattr(model, "allow_patterns_overrides", None):
        raise PullFailed("this model takes its weights from files of its own choice")
    if model_config.quantization == "torchao":
        raise PullFailed("torchao puts its tensors together while it reads files")


def _quantizes_while_loading(model: nn.Module) -> bool:
    methods = (getattr(module, "quant_method", None) for module in model.modules())
    return any(getattr(method, "uses_meta_device", False) for method in methods)
