"""What needs the real tools, but no engine: rules, configurations, dashboards."""

from __future__ import annotations

import filecmp
import shutil
import sys

import pytest

from tests.docker.machine import CACHE, ROOT, run

PROMETHEUS = ROOT / "docker" / "prometheus"
GRAFANA = ROOT / "docker" / "grafana"


@pytest.fixture(scope="module")
def promtool(unpacked):
    return unpacked / "usr/bin/promtool"


def test_rules_are_rules_and_do_what_their_tests_say(promtool):
    run(promtool, "check", "rules", "rules.yml", cwd=PROMETHEUS)
    run(promtool, "test", "rules", "rules_test.yml", cwd=PROMETHEUS)


@pytest.mark.parametrize(
    ("is_", "becomes"),
    [
        ("> 86400", "> 8640000"),
        ("> 1.5 and", "> 3.5 and"),
        ("[30m]) > 2", "[30m]) > 5"),
        (" unless ", " and "),
    ],
)
def test_the_tests_of_the_rules_notice_a_wrong_one(promtool, tmp_path, is_, becomes):
    text = (PROMETHEUS / "rules.yml").read_text(encoding="utf-8")
    wrong = text.replace(is_, becomes, 1)
    assert wrong != text
    (tmp_path / "rules.yml").write_text(wrong, encoding="utf-8")
    shutil.copy(PROMETHEUS / "rules_test.yml", tmp_path)
    done = run(promtool, "test", "rules", "rules_test.yml", cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert "FAILED" in done.stdout + done.stderr


def test_the_configurations_are_valid(promtool, unpacked):
    run(promtool, "check", "config", "--syntax-only", PROMETHEUS / "prometheus.yml")
    run(unpacked / "usr/bin/amtool", "check-config", ROOT / "docker/alertmanager/alertmanager.yml")


def test_the_dashboards_are_what_the_generator_writes(unpacked, tmp_path):
    """The generator's library is in an environment of its own, as `make dashboards` has it."""
    environment = CACHE / "grafana"
    python = environment / "bin" / "python"
    if not (environment / ".done").exists():
        run(sys.executable, "-m", "venv", "--clear", environment)
        run(
            python, "-m", "pip", "install", "--quiet", "--require-hashes", "-r", GRAFANA / "requirements.lock"
        )
        (environment / ".done").touch()
    run(python, GRAFANA / "generate.py", tmp_path)
    committed = sorted(path.name for path in (GRAFANA / "dashboards").iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == committed
    different = filecmp.cmpfiles(tmp_path, GRAFANA / "dashboards", committed, shallow=False)[1:]
    assert different == ([], []), "run `make dashboards`"
