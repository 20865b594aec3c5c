"""Which client library is behind the port, and what is said where it is missing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from stream_al.transport import connect

MISSING = """
import sys
sys.modules["confluent_kafka"] = None  # as if it were not installed
from stream_al.cli import main
sys.argv = ["stream-al", "status", "--set", "broker.url=kafka://127.0.0.1:9", "--set", "broker.client=confluent"]
main()
"""


def test_a_library_that_is_not_installed_is_a_setting_that_is_wrong(tmp_path):
    end = subprocess.run(
        [sys.executable, "-c", MISSING], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert end.returncode == 78
    assert "pip install 'stream-al[confluent]'" in end.stderr
    assert "Traceback" not in end.stderr


def test_kafka_python_needs_nothing_of_the_other():
    code = "import sys, stream_al.transport.kafka; sys.exit('confluent_kafka' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=30).returncode == 0


def test_the_embedded_log_takes_no_notice_of_it():
    with connect("embedded://:memory:", {"client": {"library": "confluent"}}) as broker:
        assert broker.partitions("nowhere") == 0


@pytest.mark.parametrize("url", ["redis://here", "here"])
def test_a_broker_nobody_knows_is_named(url):
    with pytest.raises(ValueError, match="neither embedded"):
        connect(url)
