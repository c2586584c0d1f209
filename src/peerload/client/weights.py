"""What a pull gives back: weights in memory, or a folder, and a report of how they came."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar

from peerload.checkpoint import Checkpoint, Skipped
from peerload.client.identity import Identity
from peerload.client.sources import SourceInfo
from peerload.client.transfer import Served, Slot
from peerload.metadata.records import Form, SourceKey

__all__ = [
    "Attempt",
    "Filled",
    "Given",
    "OnProgress",
    "PullProgress",
    "PullReport",
    "PulledFolder",
    "Verification",
    "Weights",
    "summarize",
]

T = TypeVar("T")
S = TypeVar("S")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class PullProgress:
    """Where a pull stands. `phase` is "waiting" (for a source), "checking" (what is here already) or "reading"; into the
    Hugging Face cache also "naming" (computing blobs' names), "downloading" (from the hub) or "downloading elsewhere"
    (another process does; `reason` says which)."""

    phase: str
    bytes_done: int = 0
    """Of this phase: bytes read and bytes reused, or bytes checked."""
    bytes_total: int = 0
    source: SourceInfo | None = None
    """Which source is being read."""
    address: str = ""
    """Where it is being read from, as its engine names it."""
    bytes_reused: int = 0
    reason: str = ""
    """Waiting: why the server cannot be asked at the moment; empty while it can."""


OnProgress: TypeAlias = Callable[[PullProgress], None]
"""Called on the event loop's thread, about ten times a second while bytes move."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One source that was tried or passed over, and what came of it; `error` is "" where it gave all that was left."""

    source: SourceInfo
    address: str
    error: str
    bytes_verified: int = 0

    def __str__(self) -> str:
        at = f" at {self.address}" if self.address else ""
        return f"{self.source}{at}: {self.error or 'complete'}"


@dataclass(frozen=True, slots=True)
class Given:
    """One source that gave bytes which are in the result."""

    source: SourceInfo
    address: str
    bytes_verified: int


@dataclass(frozen=True, slots=True)
class Verification:
    """What was checked, and how. Digests find corruption; they do not protect from a peer that lies."""

    items: int
    bytes: int
    unchecked_items: int
    """Items whose publisher gave no digest: only their sizes, dtypes and shapes were compared."""
    algorithm: str = "xxh3-128"

    def __str__(self) -> str:
        text = f"{self.algorithm} of {self.items} items ({self.bytes:,} bytes)"
        return f"{text}; {self.unchecked_items} items came without a digest" if self.unchecked_items else text


@dataclass(frozen=True, slots=True)
class PullReport:
    """How a pull went. Bytes that came from a source but did not end in the result are not counted."""

    bytes_total: int
    bytes_moved: int
    bytes_reused: int
    seconds: float
    """From the first source found to the last byte verified; waiting for a source to appear is not counted."""
    waited: float
    """Seconds until there was a source."""
    sources: tuple[Given, ...]
    attempts: tuple[Attempt, ...]
    verified: Verification

    @property
    def rate(self) -> float:
        """Bytes moved a second."""
        return self.bytes_moved / self.seconds if self.seconds > 0 else 0.0


def summarize(slots: Sequence[Slot], attempts: Sequence[Attempt], *, seconds: float, waited: float) -> PullReport:
    """The report of a pull whose slots are all verified."""
    # Tens of thousands of slots have the same few origins.
    sizes: dict[int, int] = {}
    origins: dict[int, Served] = {}
    checked_items = checked = unchecked_items = total = 0
    for slot in slots:
        size, origin = slot.size, slot.origin
        total += size
        if slot.digest or not size:
            checked_items += slot.count
            checked += size
        else:
            unchecked_items += slot.count
        if origin is not None:
            number = id(origin)
            if number in sizes:
                sizes[number] += size
            else:
                sizes[number], origins[number] = size, origin
    given: dict[tuple[SourceKey, str], Given] = {}
    for number, origin in origins.items():
        at = origin.source.key, origin.address
        more = given[at].bytes_verified if at in given else 0
        given[at] = Given(origin.source, origin.address, more + sizes[number])
    moved = sum(sizes.values())
    return PullReport(
        bytes_total=total,
        bytes_moved=moved,
        bytes_reused=total - moved,
        seconds=seconds,
        waited=waited,
        sources=tuple(given.values()),
        attempts=tuple(attempts),
        verified=Verification(checked_items, checked, unchecked_items),
    )


@dataclass(frozen=True, slots=True)
class Filled(Generic[S]):
    """What a pull into the caller's memory did: everything in it holds verified weights, except what is `missing`."""

    report: PullReport
    missing: tuple[str, ...]
    """Names for which the source had nothing; their memory was not touched. Empty unless not strict."""
    unexpected: tuple[str, ...]
    """Names at the source for which no memory was given. Empty unless not strict."""
    source: S | None = None
    """This process as a source of them, if the pull was asked to publish."""

    def served_by(self, source: R | None) -> Filled[R]:
        """The same, with another object for the source."""
        return Filled(self.report, self.missing, self.unexpected, source)


class Weights(Mapping[str, T], Generic[T, S]):
    """Verified weights in memory, by name: a `Tensor` each, or what the pull's `framework` says.

    Of a checkpoint these are its tensors, and `files` has every file's bytes. Where a name occurs in several files with
    different contents, each is found as `PATH:NAME`.

    `source` is this process as a source of them, if the pull was asked to publish; it ends with `source.close()` or with
    the client.
    """

    def __init__(
        self,
        tensors: Mapping[str, T],
        *,
        form: Form,
        identity: Identity,
        rank: int,
        report: PullReport,
        files: Mapping[str, memoryview] | None = None,
        source: S | None = None,
    ) -> None:
        self._tensors = tensors
        self.form = form
        self.identity = identity
        self.rank = rank
        self.report = report
        self.files: Mapping[str, memoryview] = dict(files or {})
        self.source = source

    def served_by(self, source: R | None) -> Weights[T, R]:
        """The same weights, with another object for the source."""
        return Weights(
            self._tensors,
            form=self.form,
            identity=self.identity,
            rank=self.rank,
            report=self.report,
            files=self.files,
            source=source,
        )

    def __getitem__(self, name: str) -> T:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        return f"<Weights of {self.identity.model!r}: {len(self)} tensors, {self.report.bytes_total:,} bytes>"


@dataclass(frozen=True, slots=True)
class PulledFolder(Generic[S]):
    """A checkpoint's files, complete and verified, in `local_dir`."""

    local_dir: Path
    identity: Identity
    checkpoint: Checkpoint
    """What the folder holds; it lacks what was skipped."""
    skipped: tuple[Skipped, ...]
    """Files of the source that may run code, left out because that was not allowed."""
    report: PullReport
    source: S | None = None

    def served_by(self, source: R | None) -> PulledFolder[R]:
        """The same folder, with another object for the source."""
        return PulledFolder(self.local_dir, self.identity, self.checkpoint, self.skipped, self.report, source)

    @property
    def bytes_moved(self) -> int:
        """Bytes that came from sources."""
        return self.report.bytes_moved

    @property
    def bytes_reused(self) -> int:
        """Bytes that were in place already and right."""
        return self.report.bytes_reused

    @property
    def seconds(self) -> float:
        """See `PullReport.seconds`."""
        return self.report.seconds

    @property
    def rate(self) -> float:
        """Bytes moved a second."""
        return self.report.rate

    @property
    def sources(self) -> tuple[Given, ...]:
        """Who gave bytes."""
        return self.report.sources

    @property
    def verified(self) -> Verification:
        """What was checked, and how."""
        return self.report.verified
