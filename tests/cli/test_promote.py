"""``promote``: what is asked for, how a learner takes it, and what status says of challengers."""

import json

import pytest

from .conftest import jsons, samples, until
from .test_rebuild import answer, turns

CHALLENGERS = "challengers=[{name: bayes, spec: [river.naive_bayes.GaussianNB], strategy: entropy}, {name: asks, strategy: random}]"


@pytest.fixture
def service(broker, settings):
    from stream_al.service.loop import Service

    with Service(broker, settings("state_dir=null", CHALLENGERS, "accuracy.random_twin=true")) as running:
        until(lambda: running.turn() or running.follower.fold.grants)
        yield running


@pytest.fixture
def taught(cli, service):
    cli("send", "samples", stdin=samples(300))
    turns(service)
    asked = jsons(cli("tap", "labels-requested", "--from", "beginning", "--no-follow").stdout)
    answer(cli, [(r["data"], r["data"]["features"]["x"] > 0) for r in asked])
    turns(service)
    return asked


def words(cli):
    return " ".join(cli("status").stdout.split())


def test_status_tells_of_challengers_and_of_what_asking_saved(cli, service, taught):
    found = json.loads(cli("status", "--json").stdout)
    assert [(c["name"], c["strategy"]) for c in found["challengers"]] == [
        ("bayes", "entropy"),
        ("asks", "random"),
        ("random", "random"),
    ]
    bayes = found["challengers"][0]
    assert bayes["learned"] == len(taught) > 20
    assert bayes["difference"]["low"] <= bayes["difference"]["value"] <= bayes["difference"]["high"]
    assert found["challengers"][1]["difference"] is None
    assert found["labels_saved"]["asked"] == len(taught)
    assert found["promotions"] == 0
    shown = words(cli)
    assert "challenger asks the same model; what asking by random would bring is not known here" in shown
    assert "labels saved" in shown


def test_a_challenger_takes_over_and_the_former_one_may_come_back(cli, service, taught):
    asked = json.loads(cli("promote", "bayes", "--wait", "0", "--json").stdout)
    assert (asked["name"], asked["instead_of"], asked["at"]) == ("bayes", "default", None)
    turns(service)
    found = json.loads(cli("status", "--json").stdout)
    assert (found["model"], found["strategy"], found["promotions"]) == ("bayes", "entropy", 1)
    assert [c["name"] for c in found["challengers"]] == ["asks", "default", "random"]
    assert "bayes, promoted, version" in words(cli)
    again = cli("promote", "bayes")
    assert again.exit_code == 2
    assert "bayes is the model in use; there are default, asks" in " ".join(again.stderr.split())
    assert "promote default instead of bayes" in cli("promote", "default", "--wait", "0").stdout
    turns(service)
    assert json.loads(cli("status", "--json").stdout)["model"] == "default"


def test_who_is_no_challenger_is_not_promoted(cli, service):
    found = cli("promote", "forest")
    assert found.exit_code == 2
    assert "forest is no challenger; there are bayes, asks" in " ".join(found.stderr.split())


def test_without_a_ledger_that_is_said(cli, broker):
    found = cli("promote", "forest")
    assert found.exit_code == 1
    assert "there is no ledger yet" in found.stderr


def test_check_builds_them(cli):
    wrong = cli("check", "--no-broker", "--set", "challengers=[{name: no, spec: [river.tree.NoSuch]}]")
    assert wrong.exit_code == 78
    assert "there is no river.tree.NoSuch" in " ".join(wrong.stdout.split())
    assert "bayes, asks: all are built" in cli("check", "--no-broker", "--set", CHALLENGERS).stdout
