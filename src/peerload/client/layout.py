"""What a manifest offers as tensors, whichever form it is in: one list for all that reads tensors rather than files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from peerload.checkpoint import Checkpoint
from peerload.checkpoint.dtypes import torch_name
from peerload.client.items import Item, Items
from peerload.client.manifest import Manifest
from peerload.engines.base import Range

__all__ = ["are_tied", "places", "tensor_names", "tensors_of", "tied"]

_NO_TENSOR: Final = ""


def tensors_of(manifest: Manifest, files: Callable[[str], bool] | None = None) -> Items:
    """The tensors in the order in which they are read, as items of the runtime form.

    Of a checkpoint file by file, in the order of their bytes, under the names of `tensor_names`; of those files only whose
    path `files` lets through, as if there were no others. Else in the manifest's order.
    """
    checkpoint = manifest.checkpoint
    if checkpoint is None:
        return Items.of(manifest.items)
    where = places(manifest)
    found = []
    for (file, number), name in tensor_names(checkpoint, files).items():
        part, place = checkpoint.files[file].parts[number], where[file, number]
        dtype = torch_name(part.dtype)
        found.append(Item(name, place.length, dtype, part.shape, part.digest, place.region, place.offset))
    return Items.of(found)


def are_tied(tensors: Items) -> bool:
    """Whether any two are the same bytes."""
    count = len(tensors)
    if len(set(tensors.regions)) == count:
        return False
    return len(set(zip(tensors.regions, tensors.offsets, tensors.sizes, strict=True))) < count


def tied(tensors: Items) -> Iterable[Sequence[Item]]:
    """The tensors by the bytes that they are, in the order of each one's first."""
    if not are_tied(tensors):
        # Each alone. Tens of thousands of lists would be work for the garbage collector.
        return zip(tensors, strict=True)
    groups: dict[object, list[Item]] = {}
    for tensor in tensors:
        groups.setdefault(tensor.range, []).append(tensor)
    return groups.values()


def tensor_names(checkpoint: Checkpoint, files: Callable[[str], bool] | None = None) -> dict[tuple[int, int], str]:
    """The parts that are tensors, by file and number, and what each is called.

    A name that several files have stands for the first of them where all are the same tensor, else for none: each is
    `PATH:NAME` then.
    """
    found: dict[str, list[tuple[int, int]]] = {}
    for file, each in enumerate(checkpoint.files):
        if files is not None and not files(each.path):
            continue
        for number, part in enumerate(each.parts):
            if part.dtype != _NO_TENSOR:
                found.setdefault(part.name, []).append((file, number))
    names: dict[tuple[int, int], str] = {}
    for name, same in found.items():
        parts = [checkpoint.files[file].parts[number] for file, number in same]
        if len({(part.digest, part.dtype, part.shape) for part in parts}) == 1:
            names[same[0]] = name
        else:
            names.update((key, f"{checkpoint.files[key[0]].path}:{name}") for key in same)
    return dict(sorted(names.items()))


def places(manifest: Manifest) -> dict[tuple[int, int], Range]:
    """Where the source has each part of a checkpoint, by file and number; items of one file come in file order."""
    counts: dict[int, int] = {}
    found: dict[tuple[int, int], Range] = {}
    for item in manifest.items:
        number = counts.get(item.file, 0)
        counts[item.file] = number + 1
        found[item.file, number] = item.range
    return found
