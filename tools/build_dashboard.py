"""Make deploy/grafana/peerload.json, the Grafana dashboard, from the table below.

Run it after changing that; with --check it writes nothing and fails if the file is out of date.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

FILE: Final = Path(__file__).resolve().parent.parent / "deploy" / "grafana" / "peerload.json"
_WIDTH: Final = 24
_HEIGHT: Final = 7
_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
_MINE: Final = 'instance=~"$instance"'


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart: its queries by legend."""

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    about: str = ""
    kind: str = "timeseries"
    width: int = 8
    stacked: bool = False


def _quantiles(metric: str, by: str = "", where: str = "") -> tuple[tuple[str, str], ...]:
    """The median and the slowest percent of a histogram."""
    labels = f"le, {by}" if by else "le"
    legend = f"{{{{{by}}}}} " if by else ""
    rate = f"sum by ({labels}) (rate({metric}_bucket{{{_MINE}{where}}}[$__rate_interval]))"
    return tuple((f"histogram_quantile({q}, {rate})", f"{legend}p{round(q * 100)}") for q in (0.5, 0.99))


def _rate(metric: str, by: str, where: str = "") -> str:
    return f"sum by ({by}) (rate({metric}{{{_MINE}{where}}}[$__rate_interval]))"


ROWS: Final[tuple[tuple[str, tuple[Panel, ...]], ...]] = (
    (
        "Fleet",
        (
            Panel("Servers that serve", (("sum(peerload_serving)", "serving"),), kind="stat", width=4),
            Panel(
                "Sources that are ready",
                (('max(sum by (instance) (peerload_sources{status="ready"}))', "ready"),),
                kind="stat",
                width=4,
                about="Records, that is ranks of workers. Every server on one store tells of all of them.",
            ),
            Panel("Watches", (("sum(peerload_watches)", "watches"),), kind="stat", width=4),
            Panel(
                "Sources by status",
                (("max by (status) (sum by (instance, status) (peerload_sources))", "{{status}}"),),
                width=6,
                stacked=True,
            ),
            Panel(
                "Ready sources by model",
                (('max by (model) (peerload_sources{status="ready"})', "{{model}}"),),
                width=6,
                stacked=True,
            ),
        ),
    ),
    (
        "Calls",
        (
            Panel("Calls a second", ((_rate("peerload_rpc_handled_total", "method"), "{{method}}"),), "reqps"),
            Panel(
                "Failed calls a second",
                ((_rate("peerload_rpc_handled_total", "code", ', code!="OK"'), "{{code}}"),),
                "reqps",
                "CANCELLED, DEADLINE_EXCEEDED and NOT_FOUND are the callers' own; UNAVAILABLE is an outage, INTERNAL a defect.",
            ),
            Panel("Duration", _quantiles("peerload_rpc_duration_seconds", "method"), "s"),
            Panel("Calls in flight", (("sum by (method) (peerload_rpc_in_flight)", "{{method}}"),)),
            Panel(
                "Watch messages a second", ((_rate("peerload_rpc_messages_sent_total", "method"), "{{method}}"),), "cps"
            ),
            Panel(
                "Lists that matched nothing",
                (
                    (_rate("peerload_list_misses_total", "field"), "{{field}}"),
                    (_rate("peerload_lists_unanswered_total", "instance"), "unanswered"),
                ),
                "cps",
                "By the first thing that stood in the way; peerload explain tells more.",
            ),
        ),
    ),
    (
        "Directory and feed",
        (
            Panel("Lag of the directory", _quantiles("peerload_directory_lag_seconds"), "s"),
            Panel(
                "Silence of the feed",
                ((f"max by (instance) (peerload_feed_silence_seconds{{{_MINE}}})", "{{instance}}"),),
                "s",
                "It speaks once a second; beyond 2.5 seconds it is lost.",
            ),
            Panel(
                "Feed",
                (
                    (_rate("peerload_feed_batch_size_sum", "instance"), "changes of {{instance}}"),
                    (_rate("peerload_feed_listings_total", "instance"), "listings of {{instance}}"),
                    (f"peerload_feed_up{{{_MINE}}}", "up {{instance}}"),
                ),
                "cps",
            ),
            Panel("Changes in a batch", _quantiles("peerload_feed_batch_size")),
            Panel("Manifests asked for", ((_rate("peerload_manifest_reads_total", "cache"), "{{cache}}"),), "cps"),
            Panel("Claims", (("max(peerload_claims)", "held"),)),
        ),
    ),
    (
        "Store",
        (
            Panel(
                "Operations a second",
                ((_rate("peerload_store_operations_total", "operation"), "{{operation}}"),),
                "ops",
            ),
            Panel(
                "Operations that failed",
                (
                    (
                        _rate("peerload_store_operations_total", "operation, outcome", ', outcome!="ok"'),
                        "{{operation}} {{outcome}}",
                    ),
                ),
                "ops",
                "Conflicts and what is not found are answers; unavailable and damaged are the store's fault.",
            ),
            Panel("Duration", _quantiles("peerload_store_operation_duration_seconds", "operation"), "s"),
            Panel(
                "Clock skew",
                ((f"peerload_store_clock_skew_seconds{{{_MINE}}}", "{{instance}}"),),
                "s",
                "How far the host's clock is ahead of the store's.",
            ),
        ),
    ),
    (
        "Heartbeats and the dead",
        (
            Panel(
                "Heartbeats a second",
                ((_rate("peerload_heartbeat_batch_size_sum", "instance"), "{{instance}}"),),
                "cps",
            ),
            Panel("Heartbeats in a batch", _quantiles("peerload_heartbeat_batch_size")),
            Panel(
                "Heartbeats not stored",
                (
                    (f"peerload_heartbeats_pending{{{_MINE}}}", "pending {{instance}}"),
                    (f"peerload_heartbeats_failing{{{_MINE}}}", "failing {{instance}}"),
                ),
            ),
            Panel("Reaper", ((_rate("peerload_reaper_sources_total", "action"), "{{action}}"),), "cps"),
            Panel("Sweeps", ((_rate("peerload_reaper_sweeps_total", "outcome"), "{{outcome}}"),), "cps"),
            Panel("Probes", ((_rate("peerload_probes_total", "answer"), "{{answer}}"),), "cps"),
        ),
    ),
    (
        "What clients take up",
        (
            Panel(
                "Places taken",
                (
                    (
                        f"peerload_admission_calls{{{_MINE}}} / peerload_admission_calls_limit{{{_MINE}}}",
                        "{{kind}} {{instance}}",
                    ),
                ),
                "percentunit",
            ),
            Panel(
                "Bytes held",
                (
                    (f"peerload_admission_bytes{{{_MINE}}}", "{{kind}} {{instance}}"),
                    (f"peerload_admission_bytes_waiting{{{_MINE}}}", "{{kind}} {{instance}} waiting"),
                    (f"max(peerload_admission_bytes_limit{{{_MINE}}})", "limit of each"),
                ),
                "bytes",
            ),
            Panel(
                "Refused",
                (
                    (_rate("peerload_limit_refusals_total", "limit"), "{{limit}}"),
                    (_rate("peerload_calls_refused_total", "code"), "{{code}}"),
                ),
                "cps",
            ),
        ),
    ),
    (
        "Process",
        (
            Panel("Event loop late by", _quantiles("peerload_event_loop_delay_seconds"), "s"),
            Panel(
                "CPU",
                (
                    (
                        "rate(process_cpu_seconds_total[$__rate_interval]) and on (instance) peerload_build_info",
                        "{{instance}}",
                    ),
                ),
                "percentunit",
            ),
            Panel(
                "Memory",
                (("process_resident_memory_bytes and on (instance) peerload_build_info", "{{instance}}"),),
                "bytes",
            ),
            Panel(
                "Open files",
                (("process_open_fds and on (instance) peerload_build_info", "{{instance}}"),),
            ),
            Panel(
                "Certificate expires in",
                (("peerload_tls_certificate_expiry_timestamp_seconds - time()", "{{instance}}"),),
                "s",
            ),
        ),
    ),
    (
        "Reads, as clients tell that are scraped themselves",
        (
            Panel(
                "Bytes a second",
                (("sum by (engine) (rate(peerload_client_read_bytes_total[$__rate_interval]))", "{{engine}}"),),
                "Bps",
            ),
            Panel(
                "Bytes a second of one read",
                (
                    (
                        "sum by (engine) (rate(peerload_client_read_bytes_total[$__rate_interval])) "
                        "/ sum by (engine) (rate(peerload_client_read_seconds_total[$__rate_interval]))",
                        "{{engine}}",
                    ),
                ),
                "Bps",
            ),
            Panel(
                "Reads by outcome",
                (
                    (
                        "sum by (engine, outcome) (rate(peerload_client_reads_total[$__rate_interval]))",
                        "{{engine}} {{outcome}}",
                    ),
                    (
                        "sum by (engine) (rate(peerload_client_read_retries_total[$__rate_interval]))",
                        "{{engine}} retries",
                    ),
                ),
                "cps",
            ),
        ),
    ),
)


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it."""
    return {
        "uid": "peerload",
        "title": "Peerload",
        "tags": ["peerload"],
        "editable": True,
        "schemaVersion": 39,
        "version": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "",
        "templating": {"list": [_datasource(), _instance()]},
        "panels": list(_panels()),
    }


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"}


def _instance() -> dict[str, Any]:
    query = "label_values(peerload_build_info, instance)"
    return {
        "name": "instance",
        "type": "query",
        "label": "Server",
        "datasource": _SOURCE,
        "definition": query,
        "query": {"query": query, "refId": "instances"},
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _panels() -> Iterator[dict[str, Any]]:
    number = y = 0
    for title, panels in ROWS:
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": title,
            "collapsed": False,
            "panels": [],
            "gridPos": _place(0, y, _WIDTH, 1),
        }
        y += 1
        x = 0
        for panel in panels:
            if x + panel.width > _WIDTH:
                x, y = 0, y + _HEIGHT
            number += 1
            yield _panel(panel, number, _place(x, y, panel.width, _HEIGHT))
            x += panel.width
        y += _HEIGHT


def _place(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    custom = {"fillOpacity": 20, "stacking": {"mode": "normal"}} if panel.stacked else {"fillOpacity": 5}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": _SOURCE,
        "gridPos": place,
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "custom": {} if panel.kind == "stat" else custom},
            "overrides": [],
        },
        "targets": [
            {"refId": chr(ord("A") + index), "expr": expression, "legendFormat": legend, "datasource": _SOURCE}
            for index, (expression, legend) in enumerate(panel.queries)
        ],
    }


def main(check: bool) -> int:
    """Write it; with `check` only compare. Returns the exit status."""
    made = json.dumps(dashboard(), indent=2) + "\n"
    if check:
        if not FILE.is_file() or FILE.read_text() != made:
            print(f"{FILE.name} is out of date: run tools/build_dashboard.py", file=sys.stderr)
            return 1
        return 0
    FILE.write_text(made)
    return 0


if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv[1:]))
