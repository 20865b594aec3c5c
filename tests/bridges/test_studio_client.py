"""What the client makes of answers that Label Studio seldom gives."""

import http.server
import json
import threading

import pytest

from stream_al.bridges.studio_client import Away, Denied, Refused, StudioClient


@pytest.fixture
def server():
    """Answer every call with what the test says: ``server.say(status, body, headers)``."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            told.append((self.path, self.headers.get("Authorization")))
            status, body, headers = answers.pop(0) if len(answers) > 1 else answers[0]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.do_GET()

    answers, told = [], []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.told = told
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.say = lambda status, body=b"", **headers: answers.append((status, body, headers))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "error", "text"),
    [
        (200, b"<html>", Denied, "is no Label Studio: it does not answer in JSON"),
        (200, b"[" * 100_000, Denied, "is no Label Studio"),
        (401, b'{"detail": "Invalid token."}', Denied, r"does not accept the token \(Invalid token.\)"),
        (403, b"no", Denied, r"forbids this to the token's owner \(Forbidden\)"),
        (404, b"", Refused, "404: Not Found"),
        (500, b"{}", Refused, "500: Internal Server Error"),
        (429, b"", Away, "429 Too Many Requests"),
        (502, b"<html>", Away, "502 Bad Gateway"),
    ],
)
def test_an_error_says_what_to_do(server, status, body, error, text):
    server.say(status, body)
    with pytest.raises(error, match=text) as raised:
        StudioClient(server.url, "secret-token").get("/x")
    assert "secret-token" not in str(raised.value)


def test_a_redirection_is_not_followed_with_the_token(server):
    server.say(302, Location="https://elsewhere.example/login?token=1")
    with pytest.raises(Denied, match=r"sends elsewhere, to https://elsewhere\.example; write that"):
        StudioClient(server.url, "t").get("/x")
    assert len(server.told) == 1


def test_what_is_quoted_of_a_task_is_not_told(server):
    said = {
        "validation_errors": {"non_field_errors": [{}, "Error at item 1: no text :: {'data': 'private'}"]}
    }
    server.say(400, json.dumps({**said, "detail": "Validation error"}).encode())
    with pytest.raises(Refused, match="400: Error at item 1: no text; Validation error") as raised:
        StudioClient(server.url, "t").get("/x")
    assert "private" not in str(raised.value)


def test_nobody_there():
    with pytest.raises(Away, match=r"cannot be reached \(Connection refused\)"):
        StudioClient("http://127.0.0.1:1", "t").get("/x")


def test_no_answer_in_time(server):
    server.say(200, b"{}")
    server.get_request = lambda: threading.Event().wait(1) or http.server.HTTPServer.get_request(server)
    with pytest.raises(Away, match="did not answer in"):
        StudioClient(server.url, "t", timeout_s=0.05).get("/x")


def test_a_personal_access_token_buys_another_and_once_more_when_that_lapsed(server):
    for access, answer in (("one", (200, b"1")), ("two", (200, b"3"))):
        server.say(200, json.dumps({"access": access}).encode())
        server.say(*answer)
        if access == "one":
            server.say(401)
    server.say(401)
    client = StudioClient(server.url, "eyJ.a.b")
    assert [client.get("/x"), client.get("/y")] == [1, 3]
    assert [authorization for _, authorization in server.told] == [
        None,
        "Bearer one",
        "Bearer one",
        None,
        "Bearer two",
    ]
    with pytest.raises(Denied):
        client.get("/z")
