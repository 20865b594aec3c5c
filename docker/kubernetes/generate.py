"""Writes the alerts of ``docker/prometheus/rules.yml`` as a PrometheusRule; a test holds the committed copy equal.

python docker/kubernetes/generate.py
"""

from __future__ import annotations

from pathlib import Path

import yaml

_HERE = Path(__file__).resolve().parent
RULES = _HERE.parent / "prometheus" / "rules.yml"
TARGET = _HERE / "components" / "monitoring" / "prometheus-rule.yaml"

_HEADER = "# Written by python docker/kubernetes/generate.py from docker/prometheus/rules.yml; do not edit.\n"


def prometheus_rule() -> str:
    """Return the rules as the resource that Prometheus' operator reads."""
    rules = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    resource = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "stream-al", "labels": {"app.kubernetes.io/name": "stream-al"}},
        "spec": {"groups": rules["groups"]},
    }
    text: str = yaml.safe_dump(resource, sort_keys=False, width=110, allow_unicode=True)
    return _HEADER + text


if __name__ == "__main__":
    TARGET.write_text(prometheus_rule(), encoding="utf-8")
