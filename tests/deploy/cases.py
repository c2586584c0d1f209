"""When each alert fires: series over time, a minute a step, and the labels that it fires with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["FIRING", "QUIET", "Case"]

_A: Final = 'instance="a:9401"'


@dataclass(frozen=True, slots=True)
class Case:
    """Series in promtool's notation, and an alert that fires at a minute with these labels beside its severity."""

    alert: str
    series: dict[str, str]
    labels: dict[str, str]
    at: int = 30


def _histogram(name: str, labels: str, *, slow: bool) -> dict[str, str]:
    """One that grows by 60 a minute, all of it below 10 ms or all between 2.5 and 5 seconds."""
    return {
        f'{name}_bucket{{{labels}, le="0.01"}}': "0x40" if slow else "0+60x40",
        f'{name}_bucket{{{labels}, le="2.5"}}': "0x40" if slow else "0+60x40",
        f'{name}_bucket{{{labels}, le="5"}}': "0+60x40",
        f'{name}_bucket{{{labels}, le="+Inf"}}': "0+60x40",
    }


_METHOD: Final = f'{_A}, method="model_express.p2p.P2pService/UpdateStatus"'
_PUT: Final = f'{_A}, operation="put"'
_ONE: Final = {"instance": "a:9401"}

QUIET: Final[dict[str, str]] = {
    f'peerload_build_info{{{_A}, version="1"}}': "1x100",
    f"peerload_serving{{{_A}}}": "1x100",
    f"peerload_feed_up{{{_A}}}": "1x100",
    f'peerload_rpc_handled_total{{{_METHOD}, code="OK"}}': "0+600x100",
    f'peerload_rpc_handled_total{{{_METHOD}, code="UNAVAILABLE"}}': "0+1x100",
    f'peerload_store_operations_total{{{_PUT}, outcome="ok"}}': "0+60x100",
    f'peerload_store_operations_total{{{_PUT}, outcome="conflict"}}': "0+60x100",
    f"peerload_heartbeats_failing{{{_A}}}": "0x100",
    f'peerload_reaper_sweeps_total{{{_A}, outcome="done"}}': "0+2x100",
    f'peerload_reaper_sources_total{{{_A}, action="marked"}}': "0+0.1x100",
    f'peerload_sources{{{_A}, model="m", status="ready"}}': "100x100",
    f'peerload_limit_refusals_total{{{_A}, limit="limit_calls"}}': "0x100",
    f'peerload_admission_calls{{{_A}, kind="calls"}}': "10x100",
    f'peerload_admission_calls_limit{{{_A}, kind="calls"}}': "20000x100",
    f'peerload_admission_bytes{{{_A}, kind="requests"}}': "10x100",
    f'peerload_admission_bytes_limit{{{_A}, kind="requests"}}': "500000x100",
    f'peerload_calls_refused_total{{{_A}, code="unauthenticated"}}': "0+1x100",
    f"peerload_tls_certificate_expiry_timestamp_seconds{{{_A}}}": "8000000x100",
    f"peerload_store_clock_skew_seconds{{{_A}}}": "-1x100",
    f"process_open_fds{{{_A}}}": "100x100",
    f"process_max_fds{{{_A}}}": "1000x100",
    **_histogram("peerload_rpc_duration_seconds", _METHOD, slow=False),
    **_histogram("peerload_event_loop_delay_seconds", _A, slow=False),
    **_histogram("peerload_store_operation_duration_seconds", _PUT, slow=False),
    **_histogram("peerload_directory_lag_seconds", _A, slow=False),
}
"""A server in good health, at which nothing fires."""

FIRING: Final = (
    Case("PeerloadAbsent", {"up": "1x40"}, {}),
    Case("PeerloadNotServing", {f"peerload_serving{{{_A}}}": "1x10 0x30"}, _ONE),
    Case("PeerloadFeedLost", {f"peerload_feed_up{{{_A}}}": "1x10 0x30"}, _ONE),
    Case(
        "PeerloadCallsFail",
        {
            f'peerload_rpc_handled_total{{{_METHOD}, code="OK"}}': "0+90x40",
            f'peerload_rpc_handled_total{{{_METHOD}, code="UNAVAILABLE"}}': "0+10x40",
        },
        _ONE,
    ),
    Case("PeerloadCallsSlow", _histogram("peerload_rpc_duration_seconds", _METHOD, slow=True), _ONE),
    Case("PeerloadEventLoopLate", _histogram("peerload_event_loop_delay_seconds", _A, slow=True), _ONE),
    Case(
        "PeerloadStoreFails",
        {f'peerload_store_operations_total{{{_PUT}, outcome="unavailable"}}': "0+10x40"},
        {**_ONE, "operation": "put"},
    ),
    Case(
        "PeerloadStoreSlow",
        _histogram("peerload_store_operation_duration_seconds", _PUT, slow=True),
        {**_ONE, "operation": "put"},
    ),
    Case("PeerloadHeartbeatsFail", {f"peerload_heartbeats_failing{{{_A}}}": "0x10 1x30"}, _ONE),
    Case("PeerloadDirectoryLags", _histogram("peerload_directory_lag_seconds", _A, slow=True), _ONE),
    Case(
        "PeerloadReaperStopped",
        {f'peerload_reaper_sweeps_total{{{_A}, outcome="done"}}': "7x60"},
        {**_ONE, "outcome": "done"},
        at=40,
    ),
    Case(
        "PeerloadManySourcesLost",
        {
            f'peerload_reaper_sources_total{{{_A}, action="marked"}}': "0x20 30x20",
            f'peerload_sources{{{_A}, model="m", status="ready"}}': "100x20 70x20",
            f'peerload_sources{{{_A}, model="m", status="stale"}}': "0x20 30x20",
        },
        {},
        at=25,
    ),
    Case(
        "PeerloadModelWithoutSource",
        {
            f'peerload_sources{{{_A}, model="m", status="ready"}}': "4x30 _x70",
            f'peerload_sources{{{_A}, model="n", status="ready"}}': "4x100",
        },
        {"model": "m"},
        at=80,
    ),
    Case(
        "PeerloadLimitReached",
        {f'peerload_limit_refusals_total{{{_A}, limit="limit_calls"}}': "0+5x40"},
        {**_ONE, "limit": "limit_calls"},
    ),
    Case(
        "PeerloadNearLimit",
        {
            f'peerload_admission_calls{{{_A}, kind="watches"}}': "19000x40",
            f'peerload_admission_calls_limit{{{_A}, kind="watches"}}': "20000x40",
        },
        {**_ONE, "kind": "watches"},
    ),
    Case(
        "PeerloadCallersRefused",
        {f'peerload_calls_refused_total{{{_A}, code="unauthenticated"}}': "0+60x40"},
        {**_ONE, "code": "unauthenticated"},
    ),
    Case(
        "PeerloadCertificateExpires",
        {f"peerload_tls_certificate_expiry_timestamp_seconds{{{_A}}}": "500000x40"},
        _ONE,
    ),
    Case("PeerloadClockSkew", {f"peerload_store_clock_skew_seconds{{{_A}}}": "-9x40"}, _ONE),
    Case(
        "PeerloadDescriptorsRunOut",
        {
            f"process_open_fds{{{_A}}}": "900x40",
            f"process_max_fds{{{_A}}}": "1000x40",
            f'peerload_build_info{{{_A}, version="1"}}': "1x40",
            'process_open_fds{instance="not ours"}': "900x40",
            'process_max_fds{instance="not ours"}': "1000x40",
        },
        _ONE,
    ),
)
"""For each alert one story in which it fires."""
