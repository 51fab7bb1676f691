"""Many requests at a time, answers in the order of the requests."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from reasonrl.sampling.types import Completion, Request


def in_order(
    requests: Iterable[Request],
    submit: Callable[[Request], Any],
    wait: Callable[[set[Any]], object],
    at_once: int,
) -> Iterator[list[Completion]]:
    """Yields the result of every request in turn, each as soon as it and those before it are there.

    submit: starts a request and returns its future. wait: returns when one of the given futures is done. `at_once`
    requests are under way at any time, so that a slow first one does not keep the engine idle. An error of a request
    is raised in its turn; all futures under way are cancelled when the caller stops early.
    """
    waiting = iter(requests)
    queue: deque[Any] = deque()
    running: set[Any] = set()
    try:
        while True:
            running = {future for future in running if not future.done()}
            while len(running) < at_once and (request := next(waiting, None)) is not None:
                queue.append(submit(request))
                running.add(queue[-1])
            if not queue:
                return
            if queue[0].done():
                yield queue.popleft().result()
            else:
                wait(running)
    finally:
        for future in queue:
            if not future.done():
                future.cancel()
            elif not future.cancelled():
                future.exception()  # asyncio warns of errors that were never retrieved


def batched(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` items, the last may be shorter (`itertools.batched` comes with Python 3.12)."""
    remaining = iter(items)
    while some := list(islice(remaining, size)):
        yield some
