"""Structured logs: lines for people on a terminal, JSON for programs, from our code and from libraries alike."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Callable
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor

from peerload.server.requests import CURRENT

__all__ = ["configure", "follow_signals", "set_level"]

_log = structlog.get_logger("peerload.server")


def configure(level: str, form: str, stream: TextIO | None = None, *, process: int | None = None) -> None:
    """Send everything that is logged in this process to `stream` (standard error by default).

    `level` is a name of the standard library's, lower-case; other packages are heard from WARNING on. `form` is
    `console`, `json`, or `auto`: console if the stream is a terminal. `process` is told with every line: which of
    several this is.
    """
    out = sys.stderr if stream is None else stream
    people = form == "console" or (form == "auto" and out.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _with_request_id,
        *([] if process is None else [_Naming(process)]),
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if people else "iso", utc=not people),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    last: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if people:
        last.append(
            structlog.dev.ConsoleRenderer(
                colors=out.isatty(), exception_formatter=structlog.dev.plain_traceback, pad_event_to=30
            )
        )
    else:
        last += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=_text)]
    handler = logging.StreamHandler(out)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=last))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    set_level(level)
    logging.captureWarnings(True)


def set_level(level: str) -> None:
    """From which level on our own lines are told, from now on: a name of the standard library's, lower-case."""
    logging.getLogger("peerload").setLevel(level.upper())


def follow_signals(usual: str, pass_on: Callable[[int], None] = lambda number: None) -> None:
    """From now on SIGUSR1 has everything told, and SIGUSR2 what the level `usual` has. In a running event loop; `pass_on` is
    told of each, for processes that are to do the same."""

    def change(number: signal.Signals, level: str) -> None:
        set_level(level)
        # Heard at every level but the quietest.
        _log.warning("told to change the level of the log", signal=number.name, to=level)
        pass_on(number)

    for number, level in ((signal.SIGUSR1, "debug"), (signal.SIGUSR2, usual)):
        asyncio.get_running_loop().add_signal_handler(number, change, number, level)


def _with_request_id(_: Any, __: str, event: EventDict) -> EventDict:
    """What is told while a call is answered says which."""
    call = CURRENT.get()
    if call is not None:
        event.setdefault("request_id", call.request_id)
    return event


class _Naming:
    """Adds to each line which process says it."""

    def __init__(self, process: int) -> None:
        self._process = process

    def __call__(self, _: Any, __: str, event: EventDict) -> EventDict:
        event["process"] = self._process
        return event


def _text(value: Any) -> str:
    return str(value)
