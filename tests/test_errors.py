"""Errors cross from one process to another as they are."""

from __future__ import annotations

import pickle

import pytest

from peerload import errors
from peerload.errors import (
    Conflict,
    Fault,
    InvalidArgument,
    InvalidCheckpoint,
    LimitExceeded,
    MissingExtra,
    MissingField,
    MissingLibrary,
    NoSource,
    NotFound,
    PeerloadError,
    TransferFailed,
    VerificationFailed,
)


@pytest.mark.parametrize(
    "error",
    [
        InvalidArgument("name", "is bad"),
        MissingField("worker"),
        LimitExceeded("tensors", "has 3", limit=2),
        NotFound("nothing"),
        Conflict("key", 7),
        TransferFailed("broke", retryable=False, fault=Fault.LOST),
        VerificationFailed("differs", items=["a"]),
        InvalidCheckpoint("a/b", "is cut off"),
        NoSource("none", ["one", "two"]),
        MissingExtra("it", "extra"),
        MissingLibrary("it", ["libx.so"], ["libx"]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_survives_pickling(error: PeerloadError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.args, str(again)) == (type(error), error.args, str(error))
    assert vars(again) == vars(error)


def test_every_error_can_be_pickled() -> None:
    for name in errors.__all__:
        kind = getattr(errors, name)
        if isinstance(kind, type) and issubclass(kind, PeerloadError):
            made = kind.__new__(kind, "text")
            assert str(pickle.loads(pickle.dumps(made))) == "text"
