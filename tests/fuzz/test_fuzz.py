"""Every target with all input that is kept, and with a little that is new; `make fuzz` goes on for as long as it is told."""

from __future__ import annotations

import os
import random
import resource
from collections.abc import Iterator

import pytest

from tests.fuzz.mutation import mutated, record, records
from tests.fuzz.target import MAX_BYTES, Target, corpus, silence, targets

TARGETS = targets()
MOST_MEMORY = 400 << 20
"""Bytes by which a target may make this process grow: its inputs have a few kilobytes."""
CORPUS_BYTES = 1_000_000


@pytest.fixture(params=list(TARGETS))
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    with silence():
        yield TARGETS[request.param]


@pytest.mark.timeout(600)
def test_what_is_kept_and_a_little_more(target: Target) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    known = [*target.seeds(), *(path.read_bytes() for path in corpus(target.name))]
    for data in known:
        target.run(data)
    # The same input every time, unless this is told to explore.
    rng = random.Random(None if os.environ.get("HYPOTHESIS_PROFILE") else target.name)
    for _ in range(target.mutations):
        data = mutated(rng.choice(known), rng, MAX_BYTES, known)
        try:
            target.run(data)
        except BaseException:
            print(f"the input: {data!r}")
            raise
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    assert grown < MOST_MEMORY


def test_the_corpus_is_small_and_of_known_targets() -> None:
    found = [path for name in TARGETS for path in corpus(name)]
    assert {path.parent.name for path in found} <= set(TARGETS)
    assert sum(path.stat().st_size for path in found) < CORPUS_BYTES
    assert max((path.stat().st_size for path in found), default=0) <= MAX_BYTES


def test_records_come_back() -> None:
    assert records(record(b"a", b"", b"c") + record(b"d")) == [(b"a", b"", b"c"), (b"d",)]
    assert records(b"\xff") is None
    rng = random.Random(1)
    data = record(b'{"a":[1,{"b":"c"}]}', b"12 13 - x", record(b"inner"))
    assert len({mutated(data, rng, 100) for _ in range(200)}) > 150
    assert all(len(mutated(data, rng, 10)) <= 10 for _ in range(50))
