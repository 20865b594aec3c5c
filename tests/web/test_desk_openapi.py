"""Whatever is sent to the API, it answers as its document says."""

from __future__ import annotations

from concurrent.futures import Future

import pytest
from hypothesis import HealthCheck, given, settings

from stream_al.web.app import create_app
from stream_al.web.board import Board
from tests.web.desk_bench import TOKENS, Bench

schemathesis = pytest.importorskip("schemathesis")

OPERATIONS = 11
RUN = settings(
    max_examples=15, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module")
def bench():
    bench = Bench()
    bench.ask(5)
    bench.room.send = written  # the service's loop does not run here
    yield bench
    bench.close()


def written(_outputs):
    done = Future()
    done.set_result(None)
    return done


def test_the_api_answers_as_its_document_says(bench):
    schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(Board(), bench.room))
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) == OPERATIONS
    for operation in operations:

        @RUN
        @given(case=operation.as_strategy())
        def hold(case):
            case.call_and_validate(headers={"Authorization": f"Bearer {TOKENS['own']}"})

        hold()
