"""A server that has imported torch and transformers once, and forks a process for each `reasonrl …` of a test.

A process of its own costs 6 to 9 seconds of imports, and the tests start hundreds. What a fork gets is all that a shell
gives a process: arguments, directory, environment, limits, umask, and its standard streams. It differs in its parent,
its process group and its terminal, so tests of signals and of `accelerate launch` start real processes.

    python forkserver.py serve SOCKET        says "ready" when it takes connections
    python forkserver.py SOCKET WORD …       stands for `reasonrl WORD …`
"""

import array
import contextlib
import fcntl
import json
import os
import resource
import select
import signal
import socket
import sys

LIMITS = [name for name in dir(resource) if name.startswith("RLIMIT_")]
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
HEADER = 1 << 20  # bytes of a request at most: arguments and environment


# The client: small, since each `reasonrl` of a test starts one


def ask(path: str, words: list[str]) -> int:
    """Hands a command line and our streams to the server. Returns its exit code, or is killed as it was."""
    request = {
        "words": words,
        "directory": os.getcwd(),
        "environment": dict(os.environ),
        "umask": os.umask(0),
        "limits": {name: resource.getrlimit(getattr(resource, name)) for name in LIMITS},
    }
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, HEADER)
        server.connect(path)
        descriptors = [number for number in open_descriptors() if number != server.fileno()]
        request["descriptors"] = descriptors
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
        server.sendmsg([json.dumps(request).encode()], [rights])
        for descriptor in descriptors:  # whoever reads from us or writes to us deals with the fork alone
            os.close(descriptor)
        child = int(server.recv(64))
        for number in FORWARDED:
            signal.signal(number, lambda number, _: os.kill(child, number))
        status = int(server.recv(64))
    if os.WIFSIGNALED(status):
        signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    return os.waitstatus_to_exitcode(status)


def open_descriptors() -> list[int]:
    """The standard streams, and what a shell has opened for us besides: `<(…)` is /dev/fd/63."""
    numbers = []
    for number in range(256):
        with contextlib.suppress(OSError):
            os.fstat(number)
            numbers.append(number)
    return numbers


def has_streams() -> bool:
    """Whether stdin, stdout and stderr are all open: a closed one cannot be handed on."""
    try:
        return all(os.fstat(descriptor) for descriptor in range(3))
    except OSError:
        return False


# The server


def serve(path: str) -> None:
    """Takes requests until it is killed. Forks for each a process that forks the command and waits for it."""
    import accelerate  # noqa: F401
    import peft  # noqa: F401
    import torch  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401

    import reasonrl.cli
    import reasonrl.models.reward_model
    import reasonrl.sampling.hf.engine
    import reasonrl.training.orm.trainer
    import reasonrl.training.ppo.trainer  # noqa: F401

    threads = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 1
    if threads != 1:
        sys.exit(f"the fork server has {threads} threads: forks of it could hang")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the waiting processes are not waited for
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen(64)
        print("ready", flush=True)
        while True:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                wait_for_command(connection)
            connection.close()


def wait_for_command(connection: socket.socket) -> None:
    """Forks the command, tells the client its number and, in the end, its status."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    message, ancillary, _, _ = connection.recvmsg(HEADER, socket.CMSG_SPACE(253 * array.array("i").itemsize))
    received = array.array("i", ancillary[0][2])
    child = os.fork()
    if child == 0:
        connection.close()
        run(json.loads(message), list(received))
    for descriptor in (*received, 0, 1, 2):
        os.close(descriptor)
    connection.send(str(child).encode())
    ended, client = os.pidfd_open(child), connection.fileno()
    poll = select.poll()
    for descriptor in (ended, client):
        poll.register(descriptor, select.POLLIN)
    if ended not in dict(poll.poll()):  # the client has gone, killed perhaps: so is the command
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(OSError):
        connection.send(str(status).encode())
    os._exit(0)


def run(request: dict, received: list[int]) -> None:
    """The command itself, in this process, which then ends."""
    code = 1
    try:
        # Out of the way first: one of those received may have the number that another is to get.
        aside = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 300) for descriptor in received]
        for descriptor in received:
            os.close(descriptor)
        for descriptor, number in zip(aside, request["descriptors"], strict=True):
            os.dup2(descriptor, number)
            os.close(descriptor)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a server in the background ignores it
        os.umask(request["umask"])
        os.chdir(request["directory"])
        os.environ.clear()
        os.environ.update(request["environment"])
        for name, limit in request["limits"].items():
            resource.setrlimit(getattr(resource, name), limit)
        sys.stdin = open(0, closefd=False)
        sys.stdout = open(1, "w", closefd=False)
        sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)
        sys.argv = ["reasonrl", *request["words"]]
        import torch

        from reasonrl.__main__ import main

        # A fork makes torch's thread pool anew when it is first asked for. transformers loads weights in several
        # threads, and where two of them ask at once, one gets none ("Invalid thread pool!"). So ask while there is one.
        torch.set_num_threads(torch.get_num_threads())

        main()
        code = 0
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # nobody reads it, or it is closed
                stream.flush()
        os._exit(code)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    elif has_streams():
        sys.exit(ask(sys.argv[1], sys.argv[2:]))
    else:
        os.execv(sys.executable, [sys.executable, "-m", "reasonrl", *sys.argv[2:]])
