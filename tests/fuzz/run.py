"""Fuzz for long: `python -m tests.fuzz.run SECONDS [TARGET …]`, all targets in turn if none is named.

With atheris (`requirements/fuzz.txt`) coverage leads the way, and what reaches further is kept in `tests/fuzz/corpus`, as few
and as small as will do; without it, valid input is mutated at random. Input that fails a target is written to
`tests/fuzz/failures/TARGET`; mend the defect and move it to the corpus.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.fuzz.mutation import mutated
from tests.fuzz.target import CORPUS, MAX_BYTES, Target, corpus, silence, targets

FAILURES: Final = CORPUS.with_name("failures")
_ROOT: Final = CORPUS.parent.parent.parent
_HANG_S: Final = 30
"""For one input, on a busy machine."""
_MEMORY_MB: Final = 1024
_SHARE_BYTES: Final = 30_000
"""What the corpus of one target may have."""
_INNER: Final = "--inner"


def main(arguments: Sequence[str]) -> int:
    """The exit code: 1 where a target failed."""
    if arguments and arguments[0] == _INNER:
        _inner(arguments[1], arguments[2:])
        return 0
    seconds = float(arguments[0])
    known = targets()
    chosen = [known[name] for name in arguments[1:]] or list(known.values())
    guided = importlib.util.find_spec("atheris") is not None
    print(
        f"{len(chosen)} targets, {seconds:g} s in all, {'led by coverage' if guided else 'at random (atheris is not installed)'}"
    )
    failed = [
        target.name for target in chosen if not (_guided if guided else _at_random)(target, seconds / len(chosen))
    ]
    if failed:
        print(f"failed: {', '.join(failed)}; the input is in {FAILURES.relative_to(_ROOT)}", file=sys.stderr)
    return 1 if failed else 0


def _at_random(target: Target, seconds: float) -> bool:
    rng = random.Random()
    known = [*target.seeds(), *(path.read_bytes() for path in corpus(target.name))]
    until = time.monotonic() + seconds
    count = 0
    while time.monotonic() < until:
        data = mutated(rng.choice(known), rng, MAX_BYTES, known)
        count += 1
        try:
            with silence():
                target.run(data)
        except Exception as error:
            folder = FAILURES / target.name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / hashlib.sha1(data, usedforsecurity=False).hexdigest()).write_bytes(data)
            print(f"{target.name}: {type(error).__name__}: {error}")
            return False
    print(f"{target.name}: {count} inputs")
    return True


# With atheris. Its fuzzer ends the process that it runs in, so that each run is one of its own.


def _guided(target: Target, seconds: float) -> bool:
    failures = FAILURES / target.name
    failures.mkdir(parents=True, exist_ok=True)
    before = set(failures.iterdir())
    kept = CORPUS / target.name
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        work, least = Path(temporary, "work"), Path(temporary, "least")
        work.mkdir()
        least.mkdir()
        for seed in target.seeds():
            (work / hashlib.sha1(seed, usedforsecurity=False).hexdigest()).write_bytes(seed)
        log = _fuzzer(
            target,
            f"-max_total_time={max(1, round(seconds))}",
            f"-artifact_prefix={failures}/",
            "-print_final_stats=1",
            *map(str, (work, kept)),
        )
        found = sorted(set(failures.iterdir()) - before)
        print(f"{target.name}: {_summary(log)}" + "".join(f"\n  {path}" for path in found), flush=True)
        if found:
            print(log[-4000:], flush=True)
        # What was kept counts first, then the smallest of what reaches further.
        _fuzzer(target, "-merge=1", *map(str, (least, kept, work)))
        shutil.rmtree(kept)
        kept.mkdir()
        room = _SHARE_BYTES
        for path in sorted(least.iterdir(), key=lambda path: (path.stat().st_size, path.name)):
            room -= path.stat().st_size
            if room >= 0:
                shutil.copyfile(path, kept / path.name)
    return not found


def _fuzzer(target: Target, *flags: str) -> str:
    """Run libFuzzer on a target in a process of its own; what it says."""
    with tempfile.TemporaryDirectory() as folder:
        # It starts itself again to merge, by what it takes for its program.
        program = Path(folder, "fuzzer")
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tests.fuzz.run {_INNER} {target.name} "$@"\n')
        program.chmod(0o700)
        done = subprocess.run(
            [str(program), f"-timeout={_HANG_S}", f"-rss_limit_mb={_MEMORY_MB}", f"-max_len={MAX_BYTES}", *flags],
            cwd=_ROOT,
            env={**os.environ, "PEERLOAD_FUZZER": str(program)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
    return done.stdout


def _summary(log: str) -> str:
    counts = re.findall(r"^#(\d+)\s+(\w+)\s+cov: (\d+) ft: (\d+)", log, re.MULTILINE)
    begun = next((each for each in counts if each[1] == "INITED"), ("0", "", "0", "0"))
    ended = counts[-1] if counts else begun
    executed = re.search(r"number_of_executed_units:\s*(\d+)", log)
    inputs = executed[1] if executed else ended[0]
    return f"{inputs} inputs, coverage {begun[2]} to {ended[2]} edges, {begun[3]} to {ended[3]} features"


def _inner(name: str, flags: Sequence[str]) -> None:
    import atheris

    with atheris.instrument_imports(include=["peerload"]):
        target = targets()[name]
        known = [*target.seeds(), *(path.read_bytes() for path in corpus(name))]

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        rng = random.Random(seed)
        changed: bytes = atheris.Mutate(data, most) if rng.random() < 0.25 else mutated(data, rng, most, known)
        return changed[:most]

    atheris.Setup([os.environ["PEERLOAD_FUZZER"], *flags], target.run, custom_mutator=mutate)
    with silence():
        atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
