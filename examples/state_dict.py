"""A torch model that starts from a peer's memory and is a source itself then: needs a running `peerload serve`, and torch."""

import torch
from torch import nn

from peerload import Client

NAME = "org/torch"


def build() -> nn.Module:
    return nn.Sequential(nn.Embedding(1000, 64), nn.Linear(64, 64, dtype=torch.bfloat16), nn.Linear(64, 10))


def first(client: Client) -> nn.Module:
    """The first replica has its weights from training or a disk, and publishes them where they are."""
    model = build()
    client.publish(model.state_dict(), model=NAME)
    return model


def replica(client: Client) -> nn.Module:
    """Every other one is filled in place, and serves what it got; what was not verified is an error."""
    model = build()
    filled = client.pull_into(model.state_dict(), NAME, wait=30, publish=True)
    print(f"filled {filled.report.bytes_total:,} bytes in place, checked {filled.report.verified}")
    return model


def tensor_by_tensor(client: Client) -> nn.Module:
    """For a model that takes its tensors one by one: here each goes into the parameter of its name."""
    model = build()
    into = model.state_dict()
    for name, tensor in client.iter_weights(NAME, wait=30, framework="pt"):
        into[name].copy_(tensor)
    return model


def main() -> None:
    with Client() as one, Client() as two, Client() as three:
        models = [first(one), replica(two), tensor_by_tensor(three)]
        words = torch.arange(5)
        with torch.inference_mode():
            same = [torch.equal(model[0](words), models[0][0](words)) for model in models]
        print(f"{len(three.find(NAME))} workers have it now; all alike: {all(same)}")


if __name__ == "__main__":
    main()
