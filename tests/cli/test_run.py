"""The service as a process: fed, answered, asked how it is, and ended."""

import json
import signal
import urllib.request

from .conftest import jsons, samples, until


def started(process):
    """Wait until the service says that it is ready; return what it said, by event."""
    said = {}
    while "ready" not in said:
        line = process.stderr.readline()
        assert line, f"it ended before it was ready: {said}"
        entry = json.loads(line)
        said[entry["event"]] = entry
    return said


def status(cli):
    return jsons(cli("status", "--json").stdout)[0]


def test_the_whole_loop_from_the_command_line(cli, program):
    process = program("run", "--role", "all")
    said = started(process)
    assert cli("send", "samples", stdin=samples(300) + "oops\n").exit_code == 0
    until(lambda: status(cli)["budget"]["samples"] >= 300)

    tapped = cli("tap", "labels-requested", "--from", "beginning", "--no-follow", "--json").stdout
    requests = [record["value"] for record in jsons(tapped)]
    answers = [
        {
            "id": r["data"]["id"],
            "label": "pos" if r["data"]["features"]["x"] > 0 else "neg",
            "annotator": "ann",
        }
        for r in requests
    ]
    answers.append({"id": "nobody", "label": "pos"})
    assert cli("send", "labels", stdin="\n".join(map(json.dumps, answers))).exit_code == 0
    until(lambda: status(cli)["labels"]["learned"] == len(requests) > 20)
    until(lambda: status(cli)["dead_letters"]["reasons"] == {"not_json": 1, "unknown_request": 1})
    found = status(cli)
    assert found["classes"] == ["pos", "neg"] or found["classes"] == ["neg", "pos"]
    assert found["pending"]["requests"] == 0
    assert [finding["link"] for finding in found["silent"]] == ["labels"]
    assert "'nobody'" in found["silent"][0]["message"]

    (story,) = jsons(cli("inspect", requests[0]["meta"]["request_id"], "--json").stdout)
    assert story["cases"][0]["coin_agrees"] is True
    assert story["cases"][0]["closing"]["annotator"] == "ann"

    with urllib.request.urlopen(f"{said['listening']['url']}/metrics") as answer:
        assert b"stream_al_samples_total" in answer.read()

    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=15)
    assert (process.returncode, out) == (0, "")
    assert "Traceback" not in err


def test_roles_work_apart_and_an_interrupt_ends_them_well(cli, program):
    learner = program("run", "--role", "learner", "--set", "http.port=null")
    started(learner)
    scorer = program("run", "--role", "scorer", "--set", "http.port=null")
    started(scorer)
    cli("send", "samples", stdin=samples(100))
    until(lambda: status(cli)["budget"]["samples"] == 100)
    for process in (scorer, learner):
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=15)
        assert process.returncode == 0


def test_a_process_can_be_the_desk_alone(cli, program):
    service = program("run", "--role", "all", "--set", "http.port=null")
    started(service)
    desk = program("run", "--role", "desk", "--set", "desk.grace_s=0.1")
    url = started(desk)["listening"]["url"]
    cli("send", "samples", stdin=samples(60))

    def post(path, body):
        request = urllib.request.Request(
            url + path, json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    (question,) = until(lambda: post("/requests/lease", {"count": 1})["questions"])
    post("/labels", {"request_id": question["request_id"], "label": "pos", "new_class": True})
    until(lambda: status(cli)["labels"]["learned"] == 1)
    with urllib.request.urlopen(f"{url}/readyz") as answer:
        assert json.load(answer)["roles"] == ["desk"]
    for process in (desk, service):
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=15)
        assert process.returncode == 0


def test_the_desk_needs_a_port(cli):
    end = cli("run", "--role", "desk", "--set", "http.port=null")
    assert end.exit_code == 78
    assert "http.port" in end.stderr


def test_an_unexpected_end_is_one_clear_line_in_the_log(cli, monkeypatch):
    monkeypatch.setattr("stream_al.service.loop.Loop.run", lambda _: 1 / 0)
    monkeypatch.setattr("stream_al.service.loop.Loop.install_signals", lambda _: None)
    end = cli("run", "--set", "http.port=null", "--set", "log.format=json")
    assert end.exit_code == 1
    (line,) = jsons(end.stderr)
    assert line["level"] == "critical"
    assert "division by zero" in line["error"]
    assert "ZeroDivisionError" in json.dumps(line["exception"])
