"""Logs: ours and the libraries', for programs and for people."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator

import pytest
import structlog

from peerload.server import logs


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("peerload").setLevel(logging.NOTSET)
    logging.captureWarnings(False)
    structlog.reset_defaults()


def test_json_lines_from_every_kind_of_logger() -> None:
    out = io.StringIO()
    logs.configure("info", "json", out)
    structlog.get_logger("peerload.server").info("serving", listen="h:1", path=object)
    logging.getLogger("peerload.store").warning("the clock stepped by %d s", 7)
    logging.getLogger("library").warning("odd")
    logging.getLogger("library").info("noise")
    structlog.get_logger("peerload.server").debug("detail")
    try:
        raise ValueError("broken")
    except ValueError as error:
        structlog.get_logger("peerload.server").error("failed", exc_info=error)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["serving", "the clock stepped by 7 s", "odd", "failed"]
    assert [line["level"] for line in lines] == ["info", "warning", "warning", "error"]
    assert lines[0]["listen"] == "h:1"
    assert lines[1]["logger"] == "peerload.store"
    assert "ValueError: broken" in lines[3]["exception"]
    assert all(line["timestamp"].endswith("Z") for line in lines)


def test_lines_for_people() -> None:
    out = io.StringIO()
    logs.configure("debug", "console", out)
    structlog.get_logger("peerload.server").debug("detail", number=5)
    assert "detail" in out.getvalue()
    assert "number=5" in out.getvalue()
    assert not out.getvalue().startswith("{")


def test_auto_is_json_where_nobody_watches() -> None:
    out = io.StringIO()
    logs.configure("info", "auto", out)
    structlog.get_logger("peerload.server").info("x")
    assert json.loads(out.getvalue())["event"] == "x"


def test_warnings_are_logged() -> None:
    out = io.StringIO()
    logs.configure("info", "json", out)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn("old", UserWarning, stacklevel=1)
    assert "old" in out.getvalue()
