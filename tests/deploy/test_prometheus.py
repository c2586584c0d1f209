"""The alert rules and the dashboard: Prometheus takes them, they ask for metrics that there are, and every alert fires."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from peerload.client.measures import Measures
from tests.deploy.cases import FIRING, QUIET
from tests.support.programs import needs
from tests.support.server import serving

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy" / "prometheus" / "peerload.rules.yaml"
DASHBOARD = ROOT / "deploy" / "grafana" / "peerload.json"
ALERTS: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}


def promtool(*arguments: object) -> None:
    path = needs("promtool", "prometheus")
    done = subprocess.run([path, *map(str, arguments)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def expressions() -> list[str]:
    """Every query of the dashboard."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", ())]


async def there_are() -> set[str]:
    """The names of all samples there may be."""
    async with serving() as server:
        families = [*server.metrics.registry.collect(), *Measures().collect()]
    names = {family.name + suffix for family in families for suffix in SUFFIXES[family.type]}
    return names | {"peerload_tls_certificate_expiry_timestamp_seconds"}


async def test_rules_and_dashboard_ask_for_metrics_that_there_are() -> None:
    names = await there_are()
    asked = [each["expr"] for each in ALERTS] + expressions()
    found = {name for text in asked for name in re.findall(r"\b(?:peerload|process)_\w+", text)}
    assert found - names == set()
    # And of what only the dashboard can show, it shows everything.
    shown = {name for text in expressions() for name in re.findall(r"\b(?:peerload|process)_\w+", text)}
    bare = {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown}
    missing = {re.sub(r"_(bucket|sum|count)$", "", name) for name in names if name.startswith("peerload_")} - bare
    assert missing <= {"peerload_build_info"}


def test_the_dashboard_is_what_its_tool_makes() -> None:
    done = subprocess.run([sys.executable, ROOT / "tools" / "build_dashboard.py", "--check"], capture_output=True)
    assert done.returncode == 0, done.stderr
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_prometheus_takes_the_rules_and_every_query_of_the_dashboard(tmp_path: Path) -> None:
    queries = [
        {"record": f"query:{index}", "expr": text.replace("$__rate_interval", "1m").replace("$instance", ".*")}
        for index, text in enumerate(expressions())
    ]
    rules = tmp_path / "queries.yaml"
    rules.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": queries}]}))
    promtool("check", "rules", RULES, rules)


def test_every_alert_has_a_story_and_says_what_to_do() -> None:
    assert [case.alert for case in FIRING] == [alert["alert"] for alert in ALERTS]
    for alert in ALERTS:
        assert set(alert["annotations"]) == {"summary", "description"}
        assert alert["labels"]["severity"] in ("warning", "critical")


def test_every_alert_fires_and_none_does_where_all_is_well(tmp_path: Path) -> None:
    story = tmp_path / "story.yaml"
    story.write_text(
        yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": list(stories())})
    )
    promtool("test", "rules", story)


def stories() -> Iterator[dict[str, Any]]:
    by_name = {alert["alert"]: alert for alert in ALERTS}
    for case in FIRING:
        alert = by_name[case.alert]
        expected = {
            "exp_labels": {**alert["labels"], **case.labels},
            "exp_annotations": {name: rendered(text, case.labels) for name, text in alert["annotations"].items()},
        }
        yield story_of(case.series, [{"eval_time": f"{case.at}m", "alertname": case.alert, "exp_alerts": [expected]}])
    calm = [{"eval_time": "90m", "alertname": name, "exp_alerts": []} for name in by_name]
    yield story_of(QUIET, calm)


def story_of(series: dict[str, str], tests: list[dict[str, Any]]) -> dict[str, Any]:
    inputs = [{"series": name, "values": values} for name, values in series.items()]
    return {"interval": "1m", "input_series": inputs, "alert_rule_test": tests}


def rendered(text: str, labels: dict[str, str]) -> str:
    return re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda match: labels[match[1]], text)


def test_promtool_is_installed_for_these_tests() -> None:
    """By `make prometheus`, as the other programs of the tests are."""
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(r"^test: .*\bprometheus\b", makefile, re.MULTILINE)
    if sys.platform == "linux":
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PATH", "/nonexistent")
            patch.setenv("CI", "")
            with pytest.raises(pytest.skip.Exception):
                needs("promtool", "prometheus")
            patch.setenv("CI", "true")
            with pytest.raises(pytest.fail.Exception):
                needs("promtool", "prometheus")
