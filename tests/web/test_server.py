"""The HTTP server over a real socket: what it answers, when, and how it starts and stops."""

import asyncio
import contextlib
import logging
import signal
import socket
import threading
import time
from dataclasses import replace

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from stream_al.config import load
from stream_al.datasets import stream
from stream_al.service.figures import Figures, ScorerFigures
from stream_al.simulate import Simulation
from stream_al.web.board import MOST_SIGHTINGS, SILENT_S, Board
from stream_al.web.limits import HEADERS, MOST_BODY, MOST_CLIENTS, Limits, Rates
from stream_al.web.server import STOP_S, HttpServer

INPUT = ("group", "topic", 0)


class Clock:
    def __init__(self):
        self.now = 1_000.0

    def __call__(self):
        return self.now


@pytest.fixture(scope="module")
def figures():
    settings = load(None, ["state_dir=null"], environ={})
    with Simulation(settings, stream("phishing", 100, 1)) as simulation:
        for _ in simulation.run():
            pass
        return Figures.of(simulation.service)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def board(clock):
    return Board(clock)


@pytest.fixture
def server(board):
    with HttpServer("127.0.0.1", 0, board).start() as server:
        yield server


@pytest.fixture
def get(server):
    with httpx.Client(base_url=server.url) as client:
        yield client.get


# --- answers -----------------------------------------------------------------------------------------------------


def test_metrics_are_those_of_the_latest_figures(server, get, figures):
    server.publish(replace(figures, model_version=1))
    server.publish(replace(figures, model_version=2))
    answer = get("/metrics")
    found = {s.name: s.value for f in text_string_to_metric_families(answer.text) for s in f.samples}
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert found["stream_al_model_version"] == 2


def test_openmetrics_is_answered_where_it_is_accepted(get):
    answer = get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


def test_a_service_is_ready_when_it_says_so(server, get, figures):
    assert (get("/readyz").status_code, get("/readyz").json()) == (503, {"ready": False, "why": "starting"})
    server.publish(Figures.away("no broker at kafka:9092"))
    assert get("/readyz").json()["why"] == "no broker at kafka:9092"
    server.publish(figures)
    answer = get("/readyz")
    assert answer.status_code == 200
    assert answer.json() == {
        "ready": True,
        "roles": ["scorer", "learner"],
        "ledger_id": figures.ledger_id,
        "ledger_position": figures.ledger_position,
        "ledger_lag": 0,
        "model_version": figures.model_version,
    }
    server.publish(Figures.away("gone again"))
    assert get("/readyz").status_code == 503


def test_a_silent_loop_is_neither_alive_nor_ready(server, get, clock, figures):
    server.publish(figures)
    clock.now += SILENT_S - 1
    assert (get("/healthz").status_code, get("/readyz").status_code) == (200, 200)
    clock.now += 2
    assert get("/healthz").status_code == get("/readyz").status_code == 503
    assert get("/healthz").json() == {
        "healthy": False,
        "why": "the service's loop has said nothing for 31.0 s",
    }
    assert "31.0 s" in get("/readyz").json()["why"]
    server.publish(figures)
    assert (get("/healthz").status_code, get("/readyz").status_code) == (200, 200)


def test_a_loop_that_waits_for_the_broker_is_alive(server, get):
    server.publish(Figures.away("no broker"))
    assert get("/healthz").json()["healthy"]


def test_the_index_links_to_everything(get):
    page = get("/")
    assert page.headers["content-type"].startswith("text/html")
    for path in ("/metrics", "/healthz", "/readyz"):
        assert f'href="{path}"' in page.text


@pytest.mark.parametrize("path", ["/", "/metrics", "/healthz", "/readyz", "/missing"])
def test_every_answer_is_secured(get, path):
    headers = get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert "server" not in headers


def secure(answer):
    return answer.headers.items() >= HEADERS.items()


def test_so_is_the_answer_to_an_error_of_ours(server, get, monkeypatch):
    monkeypatch.setattr(Board, "alive", lambda _: 1 / 0)
    answer = get("/healthz")
    assert (answer.status_code, answer.text) == (500, "Internal Server Error")
    assert secure(answer)


@pytest.mark.fault("hostile HTTP clients", "bodies, headers, rates and connections without an end")
def test_so_is_the_answer_to_what_is_no_http(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as client:
        client.sendall(b"\x16\x03\x01 no http\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(4096), b"")).decode().lower()
    assert answer.startswith("http/1.1 400")
    assert all(f"{name}: {value}".lower() in answer for name, value in HEADERS.items())


# --- limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.fault("hostile HTTP clients", "bodies, headers, rates and connections without an end")
def test_a_large_body_is_refused_before_it_is_read(server, get):
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as client:
        client.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (MOST_BODY + 1))
        assert client.recv(4096).startswith(b"HTTP/1.1 413")
    answer = httpx.post(server.url, content=b"x" * MOST_BODY)
    assert answer.status_code == 405
    assert secure(answer)
    endless = httpx.post(server.url, content=iter([b"x" * 10_000] * 20))
    assert endless.status_code == 405, "a body that nobody reads is not read"


@pytest.mark.fault("hostile HTTP clients", "bodies, headers, rates and connections without an end")
def test_a_body_of_no_stated_length_ends_at_the_limit():
    received = iter([{"type": "http.request", "body": b"x" * 40_000, "more_body": True}] * 2)

    async def reads(scope, receive, send):
        assert (await receive())["type"] == "http.request"
        assert (await receive())["type"] == "http.disconnect"

    async def receive():
        return next(received)

    scope = {"type": "http", "headers": [], "path": "/", "client": ("a", 1)}
    asyncio.run(Limits(reads)(scope, receive, None))


@pytest.mark.fault("hostile HTTP clients", "bodies, headers, rates and connections without an end")
def test_headers_without_an_end_are_refused(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as client:
        with contextlib.suppress(OSError):
            for _ in range(100):
                client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 10_000)
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(4096).startswith(b"HTTP/1.1 4")


@pytest.mark.fault("hostile HTTP clients", "bodies, headers, rates and connections without an end")
def test_a_client_that_asks_too_often_is_told_so_but_may_ask_whether_all_is_well(get, monkeypatch):
    monkeypatch.setattr("stream_al.web.limits.BURST", 10.0)
    monkeypatch.setattr("stream_al.web.limits.RATE_PER_S", 0.001)
    assert [get("/").status_code for _ in range(12)] == [200] * 10 + [429] * 2
    answer = get("/metrics")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    assert secure(answer)
    assert [get("/healthz").status_code for _ in range(20)] == [200] * 20


@pytest.mark.fault("hostile HTTP clients", "bodies, headers, rates and connections without an end")
def test_rates_are_each_client_s_own_and_remembered_for_a_bounded_number():
    clock = Clock()
    rates = Rates(clock)
    assert [rates.take("a") for _ in range(101)] == [True] * 100 + [False]
    assert rates.take("b")
    clock.now += 0.5
    assert [rates.take("a") for _ in range(11)] == [True] * 10 + [False]
    for n in range(3 * MOST_CLIENTS):
        rates.take(f"client {n}")
    assert len(rates._left) <= MOST_CLIENTS


@pytest.mark.fault("hostile HTTP clients", "bodies, headers, rates and connections without an end")
def test_connections_that_ask_nothing_do_not_keep_others_out(server, get, monkeypatch):
    monkeypatch.setattr("stream_al.web.limits.FIRST_REQUEST_S", 0.3)
    monkeypatch.setattr("stream_al.web.limits.MOST_CONNECTIONS", 20)
    idle = [socket.create_connection(("127.0.0.1", server.port), timeout=5) for _ in range(30)]
    for client in idle:
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b"", "closed by the server"
        client.close()
    assert get("/healthz").status_code == 200


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json", "/metrics/", "/../etc/passwd"])
def test_nothing_else_is_there(get, path):
    assert get(path).status_code in (307, 404)


def test_probes_may_ask_for_the_head_only(server):
    answer = httpx.head(f"{server.url}/healthz")
    assert (answer.status_code, answer.content) == (200, b"")


# --- starting and stopping -------------------------------------------------------------------------------------------


def test_a_taken_port_is_named_with_its_key(server):
    with pytest.raises(OSError, match=rf"127\.0\.0\.1:{server.port}.*already in use.*http\.port"):
        HttpServer("127.0.0.1", server.port).start()


def test_an_unknown_host_is_named_with_its_key():
    with pytest.raises(OSError, match=r"http\.host 'no such host'"):
        HttpServer("no such host", 0).start()


def test_the_main_thread_keeps_its_signals():
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with HttpServer("127.0.0.1", 0).start():
        assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before


def test_stopping_frees_the_port_and_ends_the_thread():
    server = HttpServer("127.0.0.1", 0).start()
    server.stop()
    server.stop()
    assert not any(t.name == "http" and t.is_alive() for t in threading.enumerate())
    with HttpServer("127.0.0.1", server.port).start() as again:
        assert httpx.get(f"{again.url}/healthz").status_code == 200


@pytest.mark.fault("hostile HTTP clients", "bodies, headers, rates and connections without an end")
def test_a_client_that_hangs_does_not_hold_the_end_up():
    server = HttpServer("127.0.0.1", 0).start()
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\n")
        started = time.monotonic()
        server.stop()
        assert time.monotonic() - started < STOP_S


def test_nothing_is_said_about_requests(capfd, caplog, server, get):
    caplog.set_level(logging.WARNING, logger="httpx")  # the client's, where a test before has let it be heard
    get("/metrics")
    get("/missing")
    assert "/m" not in capfd.readouterr().err


# --- the board -------------------------------------------------------------------------------------------------------


def seen(board, end, lag):
    board.publish(Figures(ledger_id="x", ends={INPUT: end}, lags={INPUT: lag}))
    return board.figures.unread_s[INPUT]


def test_the_age_of_unread_records_counts_from_when_they_were_first_seen(board, clock):
    assert seen(board, 10, 0) == 0
    clock.now += 5
    assert seen(board, 13, 3) == 0  # 10 was not there before
    clock.now += 5
    assert seen(board, 20, 10) == 5
    clock.now += 5
    assert seen(board, 20, 7) == 5  # 13 is first unread now
    assert seen(board, 20, 0) == 0
    clock.now += 100
    assert seen(board, 21, 1) == 0


def test_what_was_unread_at_the_start_counts_from_there(board, clock):
    assert seen(board, 1_000, 600) == 0
    clock.now += 60
    assert seen(board, 1_100, 650) == 60


def test_a_topic_made_anew_counts_anew(board, clock):
    seen(board, 1_000, 10)
    clock.now += 60
    assert seen(board, 5, 5) == 0


def test_a_lag_that_never_ends_takes_bounded_memory(board, clock):
    for second in range(5 * MOST_SIGHTINGS):
        age = seen(board, 10 + second, 9 + second)
        clock.now += 1
    assert age == pytest.approx(5 * MOST_SIGHTINGS, rel=0.05)
    assert len(board._arrivals._seen[INPUT]) <= MOST_SIGHTINGS


def test_while_the_broker_is_away_counters_stay_and_guesses_go(board, figures):
    board.publish(replace(figures, scorer=ScorerFigures(samples={"requested": 7})))
    board.publish(Figures.away("no broker"))
    shown = board.figures
    assert (shown.ready, shown.why_not) == (False, "no broker")
    assert shown.scorer.samples == {"requested": 7}
    assert shown.learner is None
    assert not shown.lags
