"""`peerload show`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from peerload.cli.connect import ServerOptions, connect, with_server
from peerload.cli.console import cell, fitted, out, remark, say, table, write
from peerload.cli.options import Json
from peerload.cli.outcome import run
from peerload.cli.records import (
    by_source,
    find_named,
    one_worker,
    record_json,
    replica_style,
    share_of_load,
    short,
    standing,
)
from peerload.cli.text import age, clean, plural, size
from peerload.errors import InvalidArgument, NotFound

if TYPE_CHECKING:
    from peerload.client import AsyncClient, SourceInfo, SourceManifest

__all__ = ["command"]

_FIRST = 12
"""Items that are listed without --all."""


@with_server
def command(
    source: Annotated[str, typer.Argument(metavar="SOURCE|MODEL", help="A source id, or a model's exact name.")],
    worker: Annotated[
        str | None,
        typer.Argument(
            metavar="WORKER", help="Whose manifest: a worker's id, or the beginning of it. Else a live one's."
        ),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", "-a", help="List every tensor and file, not the first dozen.")
    ] = False,
    as_json: Json = False,
    *,
    server: ServerOptions,
) -> None:
    """Show one source: its identity, its workers, its files and tensors.

    \b
      peerload show org/name
      peerload show 5a5f555570065064 --all
      peerload show org/name 3f0c --json
    """
    run(lambda: _show(source, worker, every, as_json, server))


async def _show(name: str, worker: str | None, every: bool, as_json: bool, server: ServerOptions) -> None:
    async with connect(server) as client:
        records = await find_named(client, name)
        if worker is not None:
            records = one_worker(records, worker)
        groups = by_source(records)
        if len(groups) > 1:
            listed = "\n".join(
                f"  - {group[0].source_id}  {group[0].form.name.lower()}  revision {clean(group[0].revision) or '-'}"
                f"  {plural(len(group), 'worker')}"
                for group in groups
            )
            raise InvalidArgument("SOURCE", f"{clean(name)!r} names {len(groups)} sources; say which:\n{listed}")
        found = await _manifest(client, records)
    if as_json:
        typer.echo(
            json.dumps({"workers": [record_json(record) for record in records], **_manifest_json(found)}, indent=2)
        )
        return
    _describe(records, found)
    _replicas(records, every)
    _workers(records)
    if found is None:
        remark("Published by another client, without a manifest of Peerload's: nothing is known of its tensors here.")
    else:
        _items(found, every)


async def _manifest(client: AsyncClient, records: Sequence[SourceInfo]) -> SourceManifest | None:
    """The manifest of the worker that is most likely there; None if it published none of ours."""
    best = sorted(records, key=lambda record: (record.status.name != "READY", record.age))
    for record in best:
        if not record.item_count:
            continue
        try:
            return await client.manifest(record)
        except NotFound:
            continue  # it went away since it was listed
    return None


def _describe(records: Sequence[SourceInfo], found: SourceManifest | None) -> None:
    first = records[0]
    lines = [
        ("model", first.model),
        ("revision", first.revision),
        ("known as", ", ".join(sorted({ref for record in records for ref in record.refs}))),
        ("files", first.part and f"only {first.part}"),
        ("source", first.source_id),
        ("form", "" if first.form.name == "UNSPECIFIED" else first.form.name.lower()),
        ("content", first.content),
        ("size", f"{size(first.total_size)} in {plural(first.item_count, 'item')}" if first.item_count else ""),
        ("training step", "" if first.training_step is None else str(first.training_step)),
        ("layout", first.layout_signature or ""),
    ]
    if found is not None:
        identity = found.identity
        parallel = (identity.tensor_parallel_size, identity.pipeline_parallel_size, identity.expert_parallel_size)
        lines += [
            ("framework", "" if not identity.framework else f"{identity.framework.name} {identity.framework_version}"),
            ("dtype", identity.dtype),
            ("quantization", identity.quantization),
            ("parallel", "" if max(parallel) <= 1 else "tensor {} · pipeline {} · expert {}".format(*parallel)),
            *((key, value) for key, value in sorted(identity.extra.items()) if not key.startswith("peerload.")),
        ]
    for label, value in lines:
        if value:
            out().print(Text.assemble((f"{clean(label, limit=40):>14}  ", "dim"), clean(value)), soft_wrap=True)


def _replicas(records: Sequence[SourceInfo], every: bool) -> None:
    """Those that several workers make up, a line each."""
    from peerload.client import replicas

    spread = [each for each in replicas(records) if each.total != 1 and (each.total or len(each.workers) > 1)]
    spread.sort(key=lambda replica: replica.name)
    for replica in spread if every else spread[:_FIRST]:
        words = [str(replica)]
        if replica.missing:
            words.append(f"not ready: {_numbers(replica.missing)}")
        if replica.name:
            words.append(clean(replica.name))
        elif len(replica.workers) > len({worker.worker_rank for worker in replica.workers}):
            words.append(f"of {plural(len(replica.workers), 'worker')} that do not say which belong together")
        label = "replica" if replica.name else "ranks"
        line = Text.assemble((f"{label:>14}  ", "dim"), ("  ".join(words), replica_style(replica)))
        out().print(line, soft_wrap=True)
    _left_out(len(spread), "replica", every)


def _numbers(numbers: Sequence[int]) -> str:
    """Numbers in order, runs of them shortened, the first of many: `0, 3-7`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    shown = [str(first) if first == last else f"{first}-{last}" for first, last in runs[:_FIRST]]
    return ", ".join(shown + ["…"] * (len(runs) > _FIRST))


def _workers(records: Sequence[SourceInfo]) -> None:
    made = table(
        "WORKER", "RANK", "STATUS", "SEEN", "UP SINCE", "LOAD", "ENGINES", "TOPOLOGY", "POD", right=("RANK", "LOAD")
    )
    for record in records:
        place = " ".join(f"{key}={value}" for key, value in sorted(record.topology.items()))
        made.add_row(
            short(record.worker_id),
            str(record.worker_rank),
            standing(record),
            f"{age(record.age)} ago",
            _moment(record.published_at),
            share_of_load([record]),
            cell(", ".join(record.engines) or "-"),
            cell(place or "-"),
            cell(f"{record.pod_namespace}/{record.pod_name}" if record.pod_name else "-"),
        )
    write(fitted(made, "UP SINCE", "POD", "LOAD", "ENGINES"))
    out().print()


def _items(found: SourceManifest, every: bool) -> None:
    manifest = found.manifest
    files = manifest.checkpoint.files if manifest.checkpoint else ()
    if files:
        made = table("FILE", "SIZE", "PARTS", right=("SIZE", "PARTS"))
        for file in files if every else files[:_FIRST]:
            made.add_row(cell(file.path), size(file.size), f"{len(file.parts):,}")
        write(made)
        _left_out(len(files), "file", every)
    tensors = [item for item in manifest.items if item.dtype]
    if tensors:
        made = table("TENSOR", "DTYPE", "SHAPE", "SIZE", "XXH3-128", right=("SIZE",))
        for item in tensors if every else tensors[:_FIRST]:
            shape = " × ".join(str(length) for length in item.shape) or "scalar"
            made.add_row(
                cell(item.name),
                cell(item.dtype.removeprefix("torch.")),
                shape,
                size(item.size),
                f"{item.digest.hex()[:16]}…" if item.digest else "-",
            )
        write(made)
        _left_out(len(tensors), "tensor", every)


def _left_out(count: int, noun: str, every: bool) -> None:
    if not every and count > _FIRST:
        say(f"  … {plural(count - _FIRST, 'more ' + noun)}; --all lists them", style="dim")
    out().print()


def _moment(milliseconds: int) -> str:
    if milliseconds <= 0:
        return "-"
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _manifest_json(found: SourceManifest | None) -> dict[str, Any]:
    """The manifest for programs; no descriptors, which are capabilities."""
    if found is None:
        return {"manifest": None}
    manifest = found.manifest
    return {
        "manifest": {
            "form": manifest.form.name.lower(),
            "endpoints": [{"engine": endpoint.engine, "address": endpoint.address} for endpoint in manifest.endpoints],
            "files": [
                {"path": file.path, "size": file.size, "digest": file.digest().hex()}
                for file in (manifest.checkpoint.files if manifest.checkpoint else ())
            ],
            "items": [
                {
                    "name": item.name,
                    "size": item.size,
                    "dtype": item.dtype,
                    "shape": list(item.shape),
                    "digest": item.digest.hex(),
                    "file": item.file,
                    "offset": item.offset,
                }
                for item in manifest.items
            ],
        }
    }
