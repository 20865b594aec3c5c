"""Rules, runbooks, dashboards and metrics know of each other. What needs promtool is in tests/docker."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from stream_al.metrics import METRICS
from tests.docker.expressions import ROOT, dashboards, operands, panel_expressions, rules

RUNBOOKS = ROOT / "docs" / "runbooks.md"
ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}
RECORDED = {rule["record"] for rule in rules() if "record" in rule}
# what Prometheus and the client library themselves provide
GIVEN = {
    "up",
    "ALERTS",
    "process_start_time_seconds",
    "process_resident_memory_bytes",
    "process_cpu_seconds_total",
}
EXPRESSIONS = {
    **{rule.get("alert", rule.get("record")): rule["expr"] for rule in rules()},
    **panel_expressions(),
}


def metrics_of(expression: str) -> set[str]:
    """Return the names of metrics in an expression: words before a brace, a range or an end, that are no function."""
    bare = re.sub(r"\{[^}]*\}|\"[^\"]*\"|\[[^\]]*\]", " ", expression)
    bare = re.sub(r"\b(by|on|group_left|group_right|ignoring|without)\s*\([^)]*\)", " ", bare)
    words = re.findall(r"[a-zA-Z_][a-zA-Z0-9_:]*(?!\s*\()\b(?!\s*\()", bare)
    return {word for word in words if word not in {"and", "or", "unless", "bool", "offset"}}


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_each_expression_asks_for_metrics_that_exist(name):
    known = GIVEN | RECORDED
    for metric in METRICS:
        known.add(metric.name)
        if metric.type == "histogram":
            known |= {f"{metric.name}_{part}" for part in ("bucket", "sum", "count")}
    found = metrics_of(EXPRESSIONS[name])
    assert found or EXPRESSIONS[name].startswith("vector(")
    assert found <= known


def test_labels_in_expressions_are_labels_of_the_metric():
    given = {"job", "instance", "namespace", "le", "alertstate", "alertname"}
    of = {metric.name: {*metric.labels, *given} for metric in METRICS}
    of |= {f"{name}_bucket": labels for name, labels in of.items()}
    for expression in EXPRESSIONS.values():
        for name, matchers in re.findall(r"([a-z_:]+)\{([^}]*)\}", expression):
            if name in of:
                assert set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers)) <= of[name], expression


def test_each_alert_has_its_paragraph_and_each_paragraph_its_alert():
    text = RUNBOOKS.read_text(encoding="utf-8")
    found = re.findall(r"^## (\w+)$", text, re.MULTILINE)
    assert found == list(ALERTS)
    sections = dict(zip(found, re.split(r"^## \w+$", text, flags=re.MULTILINE)[1:], strict=True))
    assert all(len(section.split()) >= 40 for section in sections.values())
    named = set(re.findall(r"StreamAl\w+", text))
    assert named == set(ALERTS)


@pytest.mark.parametrize("name", ALERTS)
def test_alerts_say_what_how_bad_and_what_to_do(name):
    alert = ALERTS[name]
    assert name.startswith("StreamAl")
    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
    assert alert["annotations"]["runbook_url"] == f"docs/runbooks.md#{name.lower()}"
    assert list(operands(alert["expr"]))


def test_each_alert_and_each_recorded_series_has_a_test_with_numbers():
    document = yaml.safe_load((ROOT / "docker/prometheus/rules_test.yml").read_text(encoding="utf-8"))
    checks = [check for test in document["tests"] for check in test.get("alert_rule_test", [])]
    fires = {check["alertname"] for check in checks if check.get("exp_alerts")}
    silent = {check["alertname"] for check in checks if not check.get("exp_alerts")}
    assert fires == silent == set(ALERTS)


def test_panels_name_unit_thresholds_and_legend_and_do_not_overlap():
    for name, board in dashboards().items():
        taken = set()
        assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
        assert len({panel["title"] for panel in board["panels"]}) == len(board["panels"])
        for panel in board["panels"]:
            where, defaults = f"{name}: {panel['title']}", panel["fieldConfig"]["defaults"]
            assert panel["description"], where
            assert defaults["unit"], where
            assert defaults["thresholds"]["steps"], where
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert panel["type"] == "stat" or panel["options"]["legend"]["showLegend"], where
            assert all(target["legendFormat"] and target["expr"] for target in panel["targets"]), where
            at = panel["gridPos"]
            cells = {
                (x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
            }
            assert at["x"] + at["w"] <= 24, where
            assert not cells & taken, where
            taken |= cells


def test_dashboards_are_known_by_their_titles():
    found = {board["title"]: board["uid"] for board in dashboards().values()}
    assert set(found) == {"Labels and budget", "Accuracy you can trust", "Pipeline health"}
    assert len(set(found.values())) == 3
    for board in dashboards().values():
        names = {variable["name"] for variable in board["templating"]["list"]}
        used = set(
            re.findall(r"\$\{?([a-z]\w*)", " ".join(t["expr"] for p in board["panels"] for t in p["targets"]))
        )
        assert used <= names


def test_the_band_lies_between_its_two_curves():
    board = dashboards()["accuracy"]
    (panel,) = [p for p in board["panels"] if p["title"] == "Accuracy"]
    legends = {target["legendFormat"] for target in panel["targets"]}
    fills = {
        override["matcher"]["options"]: one["value"]
        for override in panel["fieldConfig"]["overrides"]
        for one in override["properties"]
        if one["id"] == "custom.fillBelowTo"
    }
    assert fills == {"honest, upper end": "honest, lower end"}
    assert {*fills, *fills.values(), "naive (labelled only)"} <= legends


@pytest.mark.parametrize(
    "path", ["docker/compose.yaml", "docker/Dockerfile", "docker/stream-al/config.yaml", ".dockerignore"]
)
def test_no_password_and_no_path_of_a_machine_stands_in_the_files(path):
    text = (ROOT / path).read_text(encoding="utf-8")
    assert not re.search(r"(?i)(password|token|secret)\s*[:=]\s*[^\s{$]", text)
    assert not re.search(r"/(home|root|work|Users)/", text)


def compose() -> dict:
    return yaml.safe_load((ROOT / "docker/compose.yaml").read_text(encoding="utf-8"))


def test_every_service_has_limits_a_restart_policy_and_ports_for_this_machine_only():
    services = compose()["services"]
    for name, service in services.items():
        limits = service["deploy"]["resources"]["limits"]
        assert {"cpus", "memory", "pids"} <= set(limits), name
        assert service["restart"] in {"unless-stopped", "on-failure"}, name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert "latest" not in service["image"].partition("stream-al")[0], name
    ours = [s for s in services.values() if "stream-al" in s["image"]]
    assert len(ours) >= 7
    assert all(s["init"] and s["read_only"] and s["user"] == "10001:10001" for s in ours)


def test_prometheus_asks_the_processes_that_there_are():
    services = compose()["services"]
    for profile in ("kafka", "embedded"):
        text = (ROOT / f"docker/prometheus/targets/{profile}.yml").read_text(encoding="utf-8")
        ((entry,),) = (yaml.safe_load(text),)
        expected = {
            f"{name}:{service['environment'].get('STREAM_AL_HTTP__PORT', '9108')}"
            for name, service in services.items()
            if profile in service.get("profiles", []) and service.get("command", [""])[0] == "run"
        }
        assert set(entry["targets"]) == expected


def test_the_settings_of_the_stack_are_settings():
    from stream_al.config import load

    settings = load(ROOT / "docker/stream-al/config.yaml", [], environ={})
    assert settings.budget.per_hour
    assert settings.budget.per_day


def test_whatever_the_image_needs_is_let_into_its_build():
    text = (ROOT / "docker/Dockerfile").read_text(encoding="utf-8")
    copied = {
        word for line in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE) for word in line.split()
    }
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").split("\n")
    assert {f"!{name}" for name in copied} == {line for line in ignore if line.startswith("!")}
    assert all((ROOT / name).exists() for name in copied)
    assert "requirements.lock" in copied
    assert Path(ROOT / "docker" / "healthy.py").stat().st_mode & 0o111
