"""A transformers model from a peer's memory, with not one file on this disk: needs `peerload serve`, a peer that shares a
sentence encoder (`peerload share ./all-MiniLM-L6-v2 --model org/minilm`), torch and transformers."""

import json
import sys

import torch
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModel

from peerload import Client, Form


def load(name: str) -> tuple[torch.nn.Module, Tokenizer]:
    with Client() as client:
        weights = client.pull(name, form=Form.CHECKPOINT, wait=30, framework="pt")
    config = AutoConfig.for_model(**json.loads(bytes(weights.files["config.json"])))
    with torch.device("meta"):  # only to learn which class it is; nothing is allocated
        kind = type(AutoModel.from_config(config))
    model = kind.from_pretrained(None, config=config, state_dict=dict(weights))
    return model.eval(), Tokenizer.from_buffer(bytes(weights.files["tokenizer.json"]))


def main(name: str) -> None:
    model, tokenizer = load(name)
    tokenizer.no_padding()
    tokens = torch.tensor([tokenizer.encode("weights travel from memory to memory").ids])
    with torch.inference_mode():
        vector = model(tokens).last_hidden_state.mean(1).squeeze()
    print(json.dumps((vector / vector.norm()).tolist()))


if __name__ == "__main__":
    main(*sys.argv[1:])
