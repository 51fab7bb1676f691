"""The openai engine against a real HTTP server in this process: one that answers, and one that misbehaves."""

import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from reasonrl.errors import ReasonRLError, UsageError
from reasonrl.models.language_model import load_tokenizer
from reasonrl.sampling import openai as engine_module
from reasonrl.sampling.openai import OpenAIEngine
from reasonrl.sampling.types import Request, Sampling


class Server:
    """A completions server whose completion of a prompt is its last ids, then EOS. `mishaps` come first, one a request:
    a status to answer with, "drop" to break the connection, "half" to break it in the middle of an answer, or seconds
    to sleep before answering."""

    def __init__(self, mishaps=(), **traits):
        self.mishaps, self.traits = list(mishaps), traits
        self.bodies, self.busy, self.most_busy = [], 0, 0
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *words):
                pass

            def reply(self, status, value, **headers):
                text = json.dumps(value).encode()
                self.send_response(status)
                for name, header in headers.items():
                    self.send_header(name.replace("_", "-"), header)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def do_GET(self):
                self.reply(200, {"data": outer.traits.get("models", [{"id": "tiny", "max_model_len": 512}])})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer.lock:
                    outer.bodies.append(body)
                    mishap = outer.mishaps.pop(0) if outer.mishaps else None
                    outer.busy += 1
                    outer.most_busy = max(outer.most_busy, outer.busy)
                try:
                    self.answer(body, mishap)
                finally:
                    with outer.lock:
                        outer.busy -= 1

            def answer(self, body, mishap):
                if mishap in ("drop", "half"):
                    if mishap == "half":
                        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                if isinstance(mishap, int):
                    return self.reply(mishap, {"error": {"message": f"mishap\nnumber {mishap}"}}, Retry_After="0")
                time.sleep(mishap or outer.traits.get("seconds", 0))
                if refuses := outer.traits.get("refuses", lambda body: None)(body):
                    return self.reply(400, {"error": {"message": refuses}})
                most = min(body["n"], outer.traits.get("most", 99))
                self.reply(200, {"choices": [outer.choice(body, k) for k in reversed(range(most))]})

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def choice(self, body, k):
        ids = [*body["prompt"][-3:], 0][: body["max_tokens"]]
        scale = body["temperature"] if self.traits.get("tempered") else 1
        choice = {
            "index": k, "text": f"text {k}", "finish_reason": "length" if len(ids) < 4 else "stop", "stop_reason": None,
            "logprobs": {
                "token_logprobs": [-0.5 / scale] * len(ids), "tokens": ["?"] * len(ids),
                "top_logprobs": [{"a": -0.5 / scale, "b": -3.0 / scale}] * len(ids),
            },
        }  # fmt: skip
        if self.traits.get("ends"):
            choice["finish_reason"] = self.traits["ends"].pop()
        if body.get("return_token_ids") and not self.traits.get("no_ids"):
            choice["token_ids"] = ids
        return choice

    def close(self):
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def policy():
    return load_tokenizer("tiny")


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setattr(engine_module, "FIRST_PAUSE", 0.01)
    servers = []

    def start(mishaps=(), **traits):
        servers.append(Server(mishaps, **traits))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def connect(policy):
    engines = []

    def make(server, **more):
        engines.append(OpenAIEngine(policy, server.url, **more))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


def requests(count):
    return [Request(f"x/{i}", [5, 6, 20 + i, 21 + i, 22 + i]) for i in range(count)]


def test_every_request_is_answered_in_order_with_ids_and_logprobs(serve, connect, policy):
    server = serve()
    drawn = list(connect(server).sample(requests(40), Sampling(k=3, max_tokens=9)))
    for request, completions in zip(requests(40), drawn, strict=True):
        assert len(completions) == 3
        for completion in completions:
            assert completion.ids == [*request.prompt_ids[-3:], 0] and completion.finish == "eos"
            assert completion.text == policy.decode([completion.ids])[0]
            assert completion.logprobs == [-0.5] * 4
    assert len(server.bodies) == 40
    assert {body["n"] for body in server.bodies} == {3} and server.bodies[0]["top_k"] == -1


@pytest.mark.parametrize("mishap", [429, 500, 503, "drop", "half"])
def test_what_fails_is_asked_again_and_nothing_is_lost_or_repeated(serve, connect, mishap):
    server = serve([mishap] * 25)
    drawn = list(connect(server, concurrency=4).sample(requests(12), Sampling(k=2, max_tokens=9)))
    assert [completions[0].ids[:3] for completions in drawn] == [r.prompt_ids[-3:] for r in requests(12)]
    assert all(len(completions) == 2 for completions in drawn)
    assert len(server.bodies) == 12 + 25


def test_a_slow_answer_is_given_up_and_asked_for_again(serve, connect):
    server = serve([1.5])
    start = time.time()
    drawn = list(connect(server, timeout=0.3).sample(requests(3), Sampling(max_tokens=9)))
    assert len(drawn) == 3 and len(server.bodies) == 4 and time.time() - start < 1.4


def test_a_slow_first_request_does_not_change_the_order(serve, connect):
    drawn = list(connect(serve([0.4]), concurrency=4).sample(requests(20), Sampling(max_tokens=9)))
    assert [completions[0].ids[:3] for completions in drawn] == [r.prompt_ids[-3:] for r in requests(20)]


def test_no_more_requests_than_allowed_are_under_way(serve, connect):
    server = serve(seconds=0.05)
    list(connect(server, concurrency=3).sample(requests(12), Sampling(max_tokens=9)))
    assert server.most_busy == 3


def test_a_server_that_stays_away_is_one_error(serve, connect):
    engine = connect(serve([503] * 50), retries=3)
    with pytest.raises(ReasonRLError, match=r"503 mishap number 503, 4 times; is the server up\?"):
        list(engine.sample(requests(1), Sampling()))


def test_a_server_that_is_not_there(policy, monkeypatch):
    monkeypatch.setattr(engine_module, "FIRST_PAUSE", 0.01)
    with pytest.raises(ReasonRLError, match=r"connection refused.*is the server up"):
        OpenAIEngine(policy, "http://127.0.0.1:9/v1")


def test_a_refusal_is_not_repeated_forever(serve, connect):
    server = serve(refuses=lambda body: "no such\nadapter")
    with pytest.raises(ReasonRLError, match=r"x/0: .* refused the request: 400 no such adapter"):
        list(connect(server).sample(requests(1), Sampling()))
    assert len(server.bodies) <= 3


def test_a_server_of_the_bare_protocol(serve, connect, capsys):
    server = serve(refuses=lambda body: "unknown field top_k" if "top_k" in body else None)
    drawn = list(connect(server, concurrency=1).sample(requests(4), Sampling(k=2, max_tokens=9, stop=("\nQ",))))
    assert all(c.logprobs is None and c.finish == "eos" and c.ids[-1] == 0 for cs in drawn for c in cs)
    assert [cs[1].text for cs in drawn] == ["text 1"] * 4
    warnings = capsys.readouterr().err
    assert warnings.count("returns no token ids") == 1 and warnings.count("knows no top_k") == 1
    assert len(server.bodies) == 4 + 2


def test_a_server_that_refuses_n_keeps_the_extensions_and_is_not_asked_for_it_again(serve, connect, capsys):
    server = serve(refuses=lambda body: "only n = 1" if body["n"] > 1 else None)
    drawn = list(connect(server, concurrency=1).sample(requests(3), Sampling(k=2, max_tokens=9)))
    assert all(len(cs) == 2 and c.logprobs == [-0.5] * 4 for cs in drawn for c in cs)
    assert [body["n"] for body in server.bodies] == [2] + [1] * 6
    assert all(body["top_k"] == -1 for body in server.bodies)
    assert "warning" not in capsys.readouterr().err


def test_a_server_that_refuses_n_and_the_extensions_is_warned_of_once(serve, connect, capsys):
    server = serve(refuses=lambda body: "no" if body["n"] > 1 or "top_k" in body else None)
    drawn = list(connect(server, concurrency=1).sample(requests(3), Sampling(k=2, max_tokens=9)))
    assert [len(cs) for cs in drawn] == [2] * 3 and len(server.bodies) == 3 + 6
    assert capsys.readouterr().err.count("knows no top_k") == 1


@pytest.mark.parametrize("reason", ["abort", "content_filter", "error", None])
def test_a_completion_without_an_end_is_asked_for_again(serve, connect, reason):
    server = serve(ends=[reason])
    [completions] = connect(server).sample(requests(1), Sampling(k=2, max_tokens=9))
    assert [c.finish for c in completions] == ["eos"] * 2 and len(server.bodies) == 2
    engine = connect(serve(ends=[reason] * 9), retries=2)
    with pytest.raises(ReasonRLError, match=rf"cut off \(finish_reason {json.dumps(reason)}\), 3 times"):
        list(engine.sample(requests(1), Sampling()))


def test_a_server_that_gives_one_completion_at_a_time(serve, connect):
    server = serve(most=1)
    [completions] = connect(server).sample(requests(1), Sampling(k=5, max_tokens=9))
    assert len(completions) == 5 and [body["n"] for body in server.bodies] == [5, 4, 3, 2, 1]


def test_logprobs_of_a_tempered_distribution_are_refused(serve, connect, capsys):
    for tempered in (False, True):
        engine = connect(serve(tempered=tempered))
        [[completion]] = engine.sample(requests(1), Sampling(temperature=0.7, max_tokens=9))
        assert (completion.logprobs is None) == tempered
        assert ("tempered distribution" in capsys.readouterr().err) == tempered


def test_greedy_is_asked_for_once(serve, connect):
    server = serve()
    [completions] = connect(server).sample(requests(1), Sampling(k=3, temperature=0, max_tokens=9))
    assert len(completions) == 3 and server.bodies[-1]["n"] == 1


def test_the_servers_model(serve, connect, policy):
    connect(serve(models=[{"id": "other"}]))  # the only one there is
    two = [{"id": "a"}, {"id": "b"}]
    with pytest.raises(UsageError, match="serves a, b, not tiny; say which with --engine-arg model=ID"):
        connect(serve(models=two))
    server = serve(models=two)
    list(connect(server, extra={"model": "b"}).sample(requests(1), Sampling(max_tokens=9)))
    assert server.bodies[0]["model"] == "b"
    connect(serve(models=[{"id": "x", "root": policy.directory, "max_model_len": 77}, *two]))
    assert policy.context == 77


def test_an_early_end_breaks_the_connections(serve, connect):
    before = set(threading.enumerate())
    engine = connect(serve(mishaps=[0.01, 0.01], seconds=20), concurrency=2)  # quick: the check of logprobs, and one
    workers = [thread for thread in threading.enumerate() if thread not in before and "(_work)" in thread.name]
    assert len(workers) == 2
    drawn = engine.sample(requests(50), Sampling(max_tokens=9))
    next(drawn)
    drawn.close()
    engine.close()
    for worker in workers:
        worker.join(5)
    assert not any(worker.is_alive() for worker in workers)


def sampled(url, *more):
    return f"reasonrl sample --task mini --limit 6 --k 2 --max-tokens 9 --base-url {url} {' '.join(more)}"


def test_the_stage_keeps_what_it_has_when_the_server_goes_and_resumes(serve, sh, tmp_path):
    server = serve()
    whole = sh(sampled(server.url)).records
    assert len(whole) == 12 and whole[0]["logprob"] == pytest.approx(-2.0)
    dying = serve([None, None, None] + [500] * 1000)
    broken = sh(sampled(dying.url, "-o out.jsonl --concurrency 1 --retries 1"))
    assert broken.code == 1 and "is the server up?" in broken.err
    assert len((tmp_path / "out.jsonl.partial").read_bytes().splitlines()) == 6
    resumed = sh(sampled(server.url, "-o out.jsonl --resume"))
    assert resumed.code == 0, resumed.err
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(r["id"], r["k"], r["completion_ids"]) for r in records] == [
        (r["id"], r["k"], r["completion_ids"]) for r in whole
    ]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("--backend openai", "name the server with --base-url"),
        ("--backend hf --base-url http://localhost:1/v1", "--base-url means nothing to the hf engine"),
        ("--base-url localhost:8000", "want http://HOST:PORT/v1"),
        ("--engine-arg max_model_len", "want KEY=VALUE"),
        ("--engine-arg max_model_len=4 --backend hf", "--engine-arg means nothing to the hf engine"),
    ],
)  # fmt: skip
def test_wrong_usage_is_one_line(sh, words, complaint):
    done = sh(f"reasonrl sample --limit 1 {words}")
    assert done.code == 2 and complaint in done.err.splitlines()[-1]
