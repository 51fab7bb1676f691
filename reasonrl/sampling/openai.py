"""The openai engine: any server that speaks OpenAI's completions protocol (vLLM, SGLang, llama.cpp).

Prompts go out as token ids, K samples a request, a bounded number of requests at a time; what a server drops, refuses
for now (429) or fails at (5xx) is asked again with back-off. A request has no effect that lasts on the server, so
asking twice is harmless, and nothing is recorded twice: a request's samples come from one answer, or from several
where the server gives fewer than K at a time.

Token ids come from vLLM's `return_token_ids`, or from the ids that llama.cpp puts beside its log-probabilities. From
a server that gives neither, the text is encoded again and there are no log-probabilities.
"""

import http.client
import json
import os
import queue
import random
import socket
import ssl
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from reasonrl import console
from reasonrl.errors import ReasonRLError, UsageError
from reasonrl.models.language_model import ModelTokenizer, is_adapter
from reasonrl.sampling.ordered import in_order
from reasonrl.sampling.types import Completion, Request, Sampling, cut_at_stop

# Seconds between tries: doubled each time, and shortened at random by up to half.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
OTHER_DISTRIBUTION = 0.1  # nats by which log-probabilities at two temperatures may differ and still be the same
# Beyond the protocol, and understood by vLLM and SGLang: whole ids, and none of the server's own ideas of sampling.
EXTENSIONS = {
    "return_token_ids": True, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "skip_special_tokens": True,
}  # fmt: skip


class OpenAIEngine:
    """Samples from the server at `base_url` (`http://host:8000/v1`).

    concurrency: requests under way at a time. timeout: seconds without a byte of an answer. retries: tries after the
    first: ten of them, with their pauses, take some three minutes. extra: fields of every request; `model` is the
    server's name for the model.
    """

    def __init__(
        self,
        policy: ModelTokenizer,
        base_url: str,
        *,
        concurrency: int = 32,
        timeout: float = 600,
        retries: int = 10,
        extra: Mapping[str, Any] | None = None,
    ):
        self.policy, self.concurrency, self.retries = policy, concurrency, retries
        self.server = _Server(base_url, timeout)
        self._stop = threading.Event()
        self.extensions = EXTENSIONS | {"stop_token_ids": sorted(policy.eos_ids)}
        self.fields = dict(extra or {})
        if "model" not in self.fields:
            self.fields["model"] = self._served_model()
        self.says_logprobs = True
        self._words, self._settling = 0, threading.Lock()  # which of the attempts in `_ask` the server understood
        self._warned = threading.Lock()
        self._jobs: queue.SimpleQueue = queue.SimpleQueue()
        # Daemons: an interrupted run does not wait for the server's answers.
        for _ in range(concurrency):
            threading.Thread(target=self._work, daemon=True).start()

    def sample(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[list[Completion]]:
        """See `Engine.sample`. Raises RecordError for a prompt that leaves no room for a completion."""
        checked = self.says_logprobs and (sampling.temperature, sampling.top_p) == (1, 1)

        def submit(request: Request) -> Future:
            nonlocal checked
            self.policy.check_fits(request.id, request.prompt_ids)
            if not checked:
                self._check_logprobs(request)
                checked = True
            future: Future = Future()
            self._jobs.put((future, request, sampling))
            return future

        return in_order(requests, submit, lambda futures: wait(futures, return_when=FIRST_COMPLETED), self.concurrency)

    def close(self) -> None:
        """Stops the workers and breaks the connections, so that the server stops working for us."""
        self._stop.set()
        for _ in range(self.concurrency):
            self._jobs.put(None)
        self.server.close()

    def _work(self) -> None:
        """A worker: one request at a time, over a connection of its own."""
        while (job := self._jobs.get()) is not None and not self._stop.is_set():
            future, request, sampling = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(self._complete(request, sampling))
            except BaseException as error:
                future.set_exception(error)

    def _complete(self, request: Request, sampling: Sampling) -> list[Completion]:
        """K completions; asked for again where the server gives fewer at a time (llama.cpp, a limit on n)."""
        body = {
            "prompt": request.prompt_ids,
            "max_tokens": min(sampling.max_tokens, self.policy.context - len(request.prompt_ids)),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "stop": list(sampling.stop),
            "logprobs": 1,
        }
        wanted = 1 if sampling.temperature == 0 else sampling.k  # greedy ones are all alike
        done: list[Completion] = []
        while len(done) < wanted:
            choices = self._ask(body | {"n": wanted - len(done)}, request.id).get("choices") or []
            if not choices:
                raise ReasonRLError(f"{request.id}: {self.server.url} answered without a completion")
            choices.sort(key=lambda choice: choice.get("index", 0))
            done += [self._completion(choice, sampling) for choice in choices[: wanted - len(done)]]
        return done * (sampling.k // wanted)

    def _completion(self, choice: dict[str, Any], sampling: Sampling) -> Completion:
        ids, logprobs = _ids_and_logprobs(choice)
        if ids is None:
            self._without_ids()
            ids, logprobs = self.policy.encode_completion(choice["text"]), None
            text = choice["text"]
        else:
            text = self.policy.decode([ids])[0]
        finish = "length"
        if choice.get("finish_reason") != "length":
            reasons = [choice[name] for name in ("stop_reason", "matched_stop") if name in choice]  # vLLM's, SGLang's
            if reasons:  # a stop string is text; an EOS is null or its id
                by_text = any(isinstance(reason, str) for reason in reasons)
            else:
                by_text = bool(ids and ids[-1] not in self.policy.eos_ids and sampling.stop)
            finish = "stop" if by_text else "eos"
            # Servers differ in whether the ids end with the EOS that ended them; ours always do.
            if finish == "eos" and not (ids and ids[-1] in self.policy.eos_ids):
                ids, logprobs = [*ids, self.policy.eos_id], None
        return Completion(ids, cut_at_stop(text, sampling.stop), logprobs if self.says_logprobs else None, finish)

    def _ask(self, body: dict[str, Any], who: str) -> dict[str, Any]:
        """One answer to a completions request; in simpler words if the server does not understand all of it, which
        later requests then begin with. The extensions are the last thing to go: without them it samples otherwise."""
        whole, plain = self.extensions | self.fields | body, self.fields | body
        attempts = (whole, whole | {"n": 1}, plain, plain | {"n": 1})
        refusal = None
        for number in range(self._words, len(attempts)):
            if refusal and attempts[number] == attempts[number - 1]:
                continue
            try:
                answer = self._retried("POST", "/completions", attempts[number], self.retries)
            except _Refused as error:
                refusal = refusal or error
                if error.status not in (400, 422):
                    break
                continue
            self._settle(number)
            return answer
        raise ReasonRLError(f"{who}: {self.server.url} refused the request: {refusal}")

    def _settle(self, number: int) -> None:
        """Remembers that it took so many attempts to be understood, and warns where that lost the extensions."""
        with self._settling:
            if self._words < 2 <= number:
                console.warn(f"{self.server.url} knows no top_k, min_p or return_token_ids: its own defaults hold")
            self._words = max(self._words, number)

    def _retried(self, method: str, path: str, body: dict[str, Any] | None, retries: int) -> dict[str, Any]:
        """The server's JSON; broken connections, 429, 5xx and what was cut off are tried again with growing pauses."""
        for failures in range(retries + 1):
            try:
                answer = self.server.request(method, path, body)
                _check_ends(answer)
                return answer
            except _Unavailable as error:
                reason, pause = str(error), min(LONGEST_PAUSE, FIRST_PAUSE * 2**failures)
                pause = max(pause * random.uniform(0.5, 1), error.retry_after)
            if failures == 2:
                console.warn(f"{self.server.url}: {reason}; trying again, up to {retries} times")
            if failures == retries or self._stop.wait(pause):
                break
        raise ReasonRLError(
            f"{self.server.url}: {reason}, {retries + 1} times; is the server up? (vllm serve MODEL; then --resume)"
        )

    def _served_model(self) -> str:
        """The server's name for the policy, from its list of models. Raises UsageError where that is not certain."""
        try:
            served = self._retried("GET", "/models", None, min(self.retries, 3)).get("data", [])
        except _Refused as refusal:
            raise ReasonRLError(f"{self.server.url}/models: {refusal}") from None
        ours = {self.policy.name, self.policy.directory, os.path.realpath(self.policy.directory)}
        match = next((model for model in served if {model["id"], model.get("root")} & ours), None)
        if match is None and len(served) == 1 and not is_adapter(self.policy.directory):
            match = served[0]
            console.log(
                f"the server calls its model {match['id']!r}; prompts are cut by {self.policy.name}'s tokenizer"
            )
        if match is None:
            names = ", ".join(model["id"] for model in served) or "none"
            raise UsageError(
                f"{self.server.url} serves {names}, not {self.policy.name}; say which with --engine-arg model=ID"
            )
        self.policy.context = min(self.policy.context, match.get("max_model_len") or self.policy.context)
        return match["id"]

    def _check_logprobs(self, request: Request) -> None:
        """Asks at two temperatures: log-probabilities that follow the temperature are not the model's own."""
        shown = []
        for temperature in (1.0, 2.0):
            body = {"prompt": request.prompt_ids, "max_tokens": 1, "temperature": temperature, "top_p": 1.0}
            choice = self._ask(body | {"n": 1, "logprobs": 5}, request.id)["choices"][0]
            shown.append(_top(choice))
        common = shown[0].keys() & shown[1].keys()
        if any(abs(shown[0][token] - shown[1][token]) > OTHER_DISTRIBUTION for token in common):
            self.says_logprobs = False
            console.warn(
                f"{self.server.url} gives log-probabilities of the tempered distribution: `logprob` is null "
                "(vLLM: serve with --logprobs-mode raw_logprobs)"
            )

    def _without_ids(self) -> None:
        if self._warned.acquire(blocking=False):
            console.warn(
                f"{self.server.url} returns no token ids: completions are encoded again, and `logprob` is null "
                "(vLLM has them)"
            )


class _Refused(Exception):
    """The server understood and said no."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class _Unavailable(Exception):
    """The server did not answer, or not now. retry_after: seconds that it asks us to wait."""

    def __init__(self, message: str, retry_after: float = 0):
        super().__init__(message)
        self.retry_after = retry_after


class _Server:
    """JSON over HTTP/1.1, with one kept connection for each thread.

    http.client and not a library: what is needed is a POST, a time-out and a status, and the hub's own client library
    has changed twice under its users.
    """

    def __init__(self, base_url: str, timeout: float):
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"--base-url {base_url}: want http://HOST:PORT/v1")
        self.url = base_url.rstrip("/")
        self.parts, self.timeout, self.root = parts, timeout, parts.path.rstrip("/")
        self.headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key := os.environ.get("OPENAI_API_KEY"):
            self.headers["Authorization"] = f"Bearer {key}"
        self._own = threading.local()
        self._open: set[http.client.HTTPConnection] = set()
        self.closed = False

    def request(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        """The answer's JSON. Raises _Refused or _Unavailable."""
        kept = getattr(self._own, "connection", None)
        try:
            response, text = self._exchange(kept or self._connect(), method, path, body)
        except TimeoutError:
            self._drop()
            raise _Unavailable(f"no answer in {self.timeout:g} s") from None
        except (OSError, http.client.HTTPException) as error:
            self._drop()
            if kept:  # a server may close a connection that it has kept for a while
                return self.request(method, path, body)
            raise _Unavailable(_reason(error)) from None
        if response.status == 200:
            try:
                return json.loads(text)
            except ValueError:
                raise _Unavailable("an answer that is no JSON") from None
        message = f"{response.status} {_message(text) or response.reason}"
        if response.status in (408, 425, 429) or response.status >= 500:
            after = response.headers.get("Retry-After", "0")
            raise _Unavailable(message, min(LONGEST_PAUSE, float(after)) if after.isdigit() else 0)
        if response.status in (401, 403):
            message += "; set OPENAI_API_KEY"
        if response.status == 404 and not self.root.endswith("/v1"):
            message += "; --base-url usually ends in /v1"
        raise _Refused(response.status, message)

    def _exchange(self, connection, method: str, path: str, body: dict[str, Any] | None):
        data = None if body is None else json.dumps(body).encode()
        connection.request(method, self.root + path, data, self.headers)
        response = connection.getresponse()
        text = response.read()
        if response.will_close:
            self._drop()
        return response, text

    def _connect(self) -> http.client.HTTPConnection:
        if self.closed:
            raise ConnectionAbortedError
        host, port = self.parts.hostname, self.parts.port
        assert host is not None  # `__init__` has seen to it
        connection: http.client.HTTPConnection
        if self.parts.scheme == "https":
            context = ssl.create_default_context()
            connection = http.client.HTTPSConnection(host, port, timeout=self.timeout, context=context)
        else:
            connection = http.client.HTTPConnection(host, port, timeout=self.timeout)
        self._own.connection = connection
        self._open.add(connection)
        return connection

    def _drop(self) -> None:
        """Closes this thread's connection; the next request makes a new one."""
        connection, self._own.connection = getattr(self._own, "connection", None), None
        if connection:
            self._open.discard(connection)
            connection.close()

    def close(self) -> None:
        """Breaks every connection, also those on which a thread is waiting."""
        self.closed = True
        for connection in list(self._open):
            with suppress(OSError, AttributeError):
                connection.sock.shutdown(socket.SHUT_RDWR)


def _reason(error: Exception) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, socket.gaierror):
        return "no such host"
    return f"the connection broke ({type(error).__name__})"


def _message(text: bytes) -> str:
    """What a server says in an error's body, in one line; "" if it says nothing that can be read."""
    with suppress(ValueError, AttributeError, TypeError):
        body = json.loads(text)
        body = body.get("error", body)
        body = body.get("message", body) if isinstance(body, dict) else body
        return " ".join(str(body).split())[:300]
    return ""


def _check_ends(answer: dict[str, Any]) -> None:
    """Raises _Unavailable for a completion that the server itself gave up ("abort", "error"): it has no end."""
    for choice in answer.get("choices") or []:
        if (reason := choice.get("finish_reason")) not in ("stop", "length"):
            raise _Unavailable(f"a completion that was cut off (finish_reason {json.dumps(reason)})")


def _ids_and_logprobs(choice: dict[str, Any]) -> tuple[list[int] | None, list[float] | None]:
    """Token ids and log-probabilities of an answer's choice, None for what it does not say."""
    about = choice.get("logprobs") or {}
    ids, logprobs = choice.get("token_ids"), about.get("token_logprobs")
    if content := about.get("content"):  # llama.cpp's form
        logprobs = [token.get("logprob") for token in content]
        ids = ids or [token.get("id") for token in content]
    if ids is None or any(type(token) is not int for token in ids):
        return None, None
    if logprobs is None or len(logprobs) != len(ids) or any(value is None for value in logprobs):
        logprobs = None
    return ids, logprobs


def _top(choice: dict[str, Any]) -> dict[str, float]:
    """The likeliest first tokens with their log-probabilities, {} if the server does not say."""
    about = choice.get("logprobs") or {}
    if content := about.get("content"):
        return {token["token"]: token["logprob"] for token in content[0].get("top_logprobs", [])}
    return (about.get("top_logprobs") or [{}])[0] or {}
