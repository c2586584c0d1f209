"""What a server tells of its port: calls, and what clients take up."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import Metric

from peerload.server.admission import Admission
from peerload.server.measures.calls import CallMeasures
from peerload.server.measures.families import counter, gauge, histogram
from peerload.server.rpc import Code
from peerload.server.tls import TlsKeeper

__all__ = ["PortCollector"]


class PortCollector:
    """Reads the measures of calls, and the admission."""

    def __init__(self, calls: CallMeasures, admission: Admission, tls: TlsKeeper | None) -> None:
        self._calls = calls
        self._admission = admission
        self._tls = tls

    def collect(self) -> Iterator[Metric]:
        """Everything, as it is now."""
        methods = self._calls.methods.items()
        yield counter(
            "peerload_rpc_handled",
            "Calls that were let in and have ended, by status; OK is told even where there were none.",
            ("method", "code"),
            (
                ((name, code.name), measures.codes[code])
                for name, measures in methods
                for code in Code
                if measures.codes[code] or code is Code.OK
            ),
        )
        yield histogram(
            "peerload_rpc_duration_seconds",
            "How long calls took that have one answer, from being let in.",
            ("method",),
            (((name,), measures.seconds) for name, measures in methods if not measures.streams),
        )
        yield gauge(
            "peerload_rpc_in_flight",
            "Calls and streams that have not ended.",
            ("method",),
            (((name,), measures.in_flight) for name, measures in methods),
        )
        yield counter(
            "peerload_rpc_messages_sent",
            "Messages of streams.",
            ("method",),
            (((name,), measures.sent) for name, measures in methods if measures.streams),
        )
        yield from self._taken()
        if self._tls is not None:
            yield gauge(
                "peerload_tls_certificate_expiry_timestamp_seconds",
                "When the server's certificate expires, in seconds since 1970; only with TLS.",
                (),
                [((), self._tls.expires / 1000)],
            )

    def _taken(self) -> Iterator[Metric]:
        kinds = self._admission.kinds
        rooms = {"requests": self._admission.requests, "answers": self._admission.answers}
        yield gauge(
            "peerload_admission_calls",
            "Calls and watches that are let in now.",
            ("kind",),
            (((kind,), places.taken) for kind, places in kinds.items()),
        )
        yield gauge(
            "peerload_admission_calls_limit",
            "How many there may be: --limit-calls, --limit-watches.",
            ("kind",),
            (((kind,), places.limit) for kind, places in kinds.items()),
        )
        yield gauge(
            "peerload_admission_bytes",
            "Bytes that large requests and answers hold.",
            ("kind",),
            (((kind,), room.used) for kind, room in rooms.items()),
        )
        yield gauge(
            "peerload_admission_bytes_waiting",
            "Bytes of large requests and answers that wait for room.",
            ("kind",),
            (((kind,), room.waiting) for kind, room in rooms.items()),
        )
        yield gauge(
            "peerload_admission_bytes_limit",
            "How many there may be of each: --limit-bytes-in-flight.",
            ("kind",),
            (((kind,), room.limit) for kind, room in rooms.items()),
        )
        yield counter(
            "peerload_limit_refusals",
            "Calls that a limit of the port has turned away, by its setting.",
            ("limit",),
            (
                ((setting.lstrip("-").replace("-", "_"),), count)
                for setting, count in sorted(self._admission.turned_away.items())
            ),
        )
