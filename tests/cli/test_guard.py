"""A wrong mapping ends the service; with the right one every sample is decided, each once."""

import json

import pytest

from stream_al.scan import scan
from stream_al.transport.port import TopicPartition

from .conftest import jsons, samples, until
from .test_run import started

pytestmark = pytest.mark.fault(
    "a mapping that fits no sample",
    "end to end: corrected, started again and replayed, every sample is decided once",
)
RUN = (
    "run",
    "--set",
    "http.port=null",
    "--set",
    "scorer.predictions=true",
    "--set",
    "samples.start=earliest",
)
SAMPLES = TopicPartition("samples", 0)


def test_after_the_mapping_is_corrected_nothing_is_missing(cli, program, broker):
    lines = samples(900).splitlines(keepends=True)
    cli("send", "samples", stdin="".join(lines[:200]))
    wrong = program(*RUN, "--set", "samples.features=payload.values")
    started(wrong)
    until(lambda: broker.ends("dead-letters")[0] == 200)
    cli("send", "samples", stdin="".join(lines[200:]))
    _, err = wrong.communicate(timeout=15)
    assert wrong.returncode == 78
    assert "samples could not be read (wrong_type" in err
    assert "samples.features: payload.values (--set)" in err
    assert "Traceback" not in err

    letters = list(scan(broker, "dead-letters"))
    assert 200 <= len(letters) < 900
    position = broker.positions("stream-al-scorer", [SAMPLES])[SAMPLES]
    assert position.offset == len(letters), "a position moves with its dead letters only"

    right = program(*RUN)
    started(right)
    replayed = jsons(cli("dead-letters", "replay", "--yes", "--json").stdout)[0]["written"]
    assert replayed == len(letters)
    until(lambda: broker.ends("predictions")[0] >= 900)
    ids = [json.loads(record.value)["id"] for record in scan(broker, "predictions")]
    assert sorted(ids) == sorted(f"s-{n}" for n in range(900))
    assert broker.ends("dead-letters")[0] == len(letters)
