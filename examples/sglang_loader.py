"""A loader for SGLang, which takes a class as load format: from a peer's memory, or from disk where nobody has the model.

python examples/sglang_loader.py org/name
"""

import logging
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from sglang.srt.configs.load_config import LoadConfig, LoadFormat
from sglang.srt.model_loader.loader import DefaultModelLoader

from peerload import Client, Form
from peerload.errors import PullFailed, Unavailable
from peerload.integrations.options import is_read_by_engines

logger = logging.getLogger(__name__)


class PeerloadModelLoader(DefaultModelLoader):
    """SGLang's own loader, but for where the tensors come from."""

    def __init__(self, load_config: LoadConfig) -> None:
        super().__init__(replace(load_config, load_format=LoadFormat.AUTO))

    def _get_all_weights(self, model_config: Any, model: Any) -> Iterator[tuple[str, Any]]:
        taken = 0
        try:
            with Client() as client:
                for tensor in client.iter_weights(
                    model_config.model_path,
                    revision=model_config.revision,
                    form=Form.CHECKPOINT,
                    files=is_read_by_engines,
                    framework="pt",
                ):
                    taken += 1
                    yield tensor
        except (PullFailed, Unavailable) as error:
            if taken:  # the model holds a part of them, which may be of another version than the disk's
                raise
            logger.warning("loading %s from disk: %s", model_config.model_path, error)
            yield from super()._get_all_weights(model_config, model)


if __name__ == "__main__":
    import sglang

    engine = sglang.Engine(model_path=sys.argv[1], load_format=PeerloadModelLoader)
    print(engine.generate("The capital of France is", {"max_new_tokens": 8}))
