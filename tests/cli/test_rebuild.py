"""``rebuild``: what is asked for, how a learner takes it, and what status and inspect say afterwards."""

import json

import pytest

from .conftest import jsons, samples, until


@pytest.fixture
def service(broker, settings):
    from stream_al.service.loop import Service

    with Service(broker, settings("state_dir=null")) as running:
        until(lambda: running.turn() or running.follower.fold.grants)
        yield running


def turns(service):
    """Let a service work until nothing comes for a while."""
    idle = 0
    while idle < 5:
        idle = 0 if service.turn(0.05) else idle + 1
        service.scorer.drain()


@pytest.fixture
def taught(cli, service):
    """Two hundred samples, and an answer to each request; return the requests."""
    cli("send", "samples", stdin=samples(200))
    turns(service)
    asked = jsons(cli("tap", "labels-requested", "--from", "beginning", "--no-follow").stdout)
    assert len(asked) > 10
    answer(cli, [(r["data"], r["data"]["features"]["x"] > 0) for r in asked])
    turns(service)
    return asked


def answer(cli, labels):
    lines = (json.dumps({"id": data["id"], "label": "up" if up else "down"}) for data, up in labels)
    assert cli("send", "labels", stdin="\n".join(lines) + "\n").exit_code == 0


def test_a_corrected_label_is_shown_and_learned_by_a_rebuild(cli, service, taught):
    data = taught[0]["data"]
    answer(cli, [(data, data["features"]["x"] < 0)])
    turns(service)
    status = json.loads(cli("status", "--json").stdout)
    assert status["labels"]["corrected"] == 1
    assert status["epoch"] == [0, 0]
    assert "\n  corrected  " in cli("inspect", data["id"]).stdout
    asked = json.loads(cli("rebuild", "--wait", "0", "--json").stdout)
    assert (asked["from_offset"], asked["labels"], asked["corrected"], asked["at"]) == (
        0,
        len(taught),
        1,
        None,
    )
    turns(service)
    fold = service.follower.fold
    assert fold.rebuilds == 1
    assert json.loads(cli("status", "--json").stdout)["epoch"] == list(fold.epoch)
    assert f"rebuilt at {fold.epoch.until} from 0 on" in " ".join(cli("status").stdout.split())


def test_the_latest_labels_alone(cli, service, taught):
    asked = json.loads(cli("rebuild", "--from", "latest-5", "--wait", "0", "--json").stdout)
    assert asked["labels"] == 5
    turns(service)
    assert service.follower.fold.model.learned == 5


@pytest.mark.parametrize("begin", ["latest-", "latest-0", "yesterday", "-3", "999999"])
def test_where_nothing_begins_nothing_is_asked(cli, service, begin):
    found = cli("rebuild", f"--from={begin}")
    assert found.exit_code == 2
    assert begin in found.stderr


def test_without_a_ledger_that_is_said(cli, broker):
    found = cli("rebuild")
    assert found.exit_code == 1
    assert "there is no ledger yet" in found.stderr
