"""The control channel of a job: one TCP connection from every process to the first one.

JAX's own coordination tells a job that a process is gone only after its heartbeat timeout, by
aborting it. Here a closed connection is noticed at once, a failing process says why, and the
processes agree on the step at which they stop. Messages are JSON objects, one per line; the first
one of a connection must hold the job's token. `Server` runs in a thread of the first process;
`Link` is one process's end, whose messages its owner reads (`job`, which alone loads this, and
only where there are several processes).
"""

import hmac
import json
import selectors
import socket
import struct
import threading
import time
from dataclasses import dataclass
from typing import Any

from ptft_jax.training.cluster.job import NEVER, NOW, Message

_MOST_BEFORE_TOKEN = 4096  # bytes that a stranger may send
_SEND_SECONDS = 5


@dataclass
class _Member:
    """One process as the server sees it."""

    link: "Link"
    process: int
    host: str
    heard: float
    ended: bool = False  # it has said goodbye
    began: bool | None = None  # whether it has made an update; None: has not answered yet
    passed: int | None = None  # how many points it had passed when it heard of a stop
    finishing: bool = False  # it comes to no such point any more


class Link:
    """One end of a connection: sends and takes apart lines of JSON. Sending is thread-safe."""

    def __init__(self, connection: socket.socket):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setblocking(True)
        # A frozen process reads nothing: sending to it must not hold up the others.
        limit = struct.pack("ll", _SEND_SECONDS, 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        self.connection = connection
        self._received = bytearray()
        self._sending = threading.Lock()

    def fileno(self) -> int:
        return self.connection.fileno()

    def send(self, message: Message) -> bool:
        """Sends a message; returns whether the connection took it."""
        try:
            with self._sending:
                self.connection.sendall(json.dumps(message).encode() + b"\n")
            return True
        except OSError:
            return False

    def receive(self, most: int | None = None) -> list[Message] | None:
        """Waits for what comes next and returns its whole messages; None when the end has come.

        Raises ValueError for what is no message, and for lines longer than `most` bytes.
        """
        try:
            data = self.connection.recv(1 << 16)
        except OSError:
            return None
        if not data:
            return None
        self._received += data
        *lines, rest = self._received.split(b"\n")
        self._received = bytearray(rest)
        if most is not None and len(data) > most:
            raise ValueError("a message that is too long")
        messages = [json.loads(line) for line in lines]
        if not all(isinstance(message, dict) for message in messages):
            raise ValueError("a message that is no object")
        return messages

    def close(self) -> None:
        self.connection.close()


def connect(address: tuple[str, int], hello: Message, timeout: float) -> Link:
    """Connects to the server at `address` and says hello; raises OSError."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            left = max(1.0, deadline - time.monotonic())
            link = Link(socket.create_connection(address, timeout=left))
            link.send({"hello": hello})
            return link
        except OSError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.2)


class Server:
    """The hub of a job of `count` processes, in a thread of its own.

    A process that has been silent for `heartbeat_seconds`, or whose connection ends without a
    goodbye, is reported as lost to all others. `port` 0 takes any free one; `port` tells which.
    """

    def __init__(self, count: int, token: str, heartbeat_seconds: float, port: int = 0):
        self._count = count
        self._token = token
        self._heartbeat = heartbeat_seconds
        dual = socket.has_dualstack_ipv6()
        self._listener = socket.create_server(
            ("", port),
            family=socket.AF_INET6 if dual else socket.AF_INET,
            dualstack_ipv6=dual,
            backlog=1024,
        )
        self.port: int = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._members: dict[int, _Member] = {}
        self._gatherings: dict[str, dict[int, Any]] = {}
        self._stopping: Message | None = None
        self._stop_at: int | str | None = None
        self._verdict: Message | None = None  # who is lost, or has failed: the first of them
        self._thread = threading.Thread(target=self._serve, name="ptft-channel", daemon=True)
        self._thread.start()

    def all_ended(self) -> bool:
        """Says whether every process but the first has said goodbye, or is gone."""
        others = [m for process, m in list(self._members.items()) if process]
        return all(member.ended for member in others)

    def _serve(self) -> None:
        beat = time.monotonic()
        while True:
            for key, _ in self._selector.select(timeout=min(1.0, self._heartbeat / 4)):
                if key.fileobj is self._listener:
                    connection, _ = self._listener.accept()
                    self._selector.register(Link(connection), selectors.EVENT_READ)
                else:
                    self._hear(key.fileobj)  # pyright: ignore[reportArgumentType]
            now = time.monotonic()
            if now - beat >= min(1.0, self._heartbeat / 4):
                beat = now
                self._broadcast({"beat": True})
                for member in list(self._members.values()):
                    if not member.ended and now - member.heard > self._heartbeat:
                        self._lose(member, f"silent for {now - member.heard:.0f} s")

    def _hear(self, link: Link) -> None:
        member = next((m for m in self._members.values() if m.link is link), None)
        try:
            messages = link.receive(_MOST_BEFORE_TOKEN if member is None else None)
            for message in messages or ():
                if member is None:
                    member = self._admit(link, message)
                member.heard = time.monotonic()
                self._handle(member, message)
        except (ValueError, KeyError, TypeError):
            messages = None
        if messages is None:
            self._selector.unregister(link)
            link.close()
            if member is not None and not member.ended:
                self._lose(member, "its connection has ended")

    def _admit(self, link: Link, message: Message) -> _Member:
        hello = message["hello"]
        if not hmac.compare_digest(str(hello["token"]), self._token):
            raise ValueError("a stranger")
        process = int(hello["process"])
        member = _Member(link, process, str(hello["host"]), time.monotonic())
        self._members[process] = member
        if self._stopping is not None:
            link.send({"stopping": self._stopping})
        if self._stop_at is not None:
            link.send({"stop_at": self._stop_at})
        if self._verdict is not None:
            link.send(self._verdict)
        return member

    def _handle(self, member: _Member, message: Message) -> None:
        if "gather" in message:
            self._gather(member, message["gather"], message["value"])
        elif "stop" in message:
            if self._stopping is None:
                who = {"process": member.process, "host": member.host}
                self._stopping = {"code": message["stop"], **who}
                self._broadcast({"stopping": self._stopping})
        elif "stands" in message:
            stands = message["stands"]
            member.began, member.passed = bool(stands["began"]), int(stands["passed"])
            self._decide()
        elif "finishing" in message:
            member.finishing = True
            self._decide()
        elif "fail" in message:
            failed = {"process": member.process, "host": member.host, **message["fail"]}
            member.ended = True
            self._judge({"failed": failed})
        elif "bye" in message:
            member.ended = True

    def _gather(self, member: _Member, tag: str, value: Any) -> None:
        values = self._gatherings.setdefault(tag, {})
        values[member.process] = value
        if len(values) == self._count:
            del self._gatherings[tag]
            in_order = [values[process] for process in range(self._count)]
            self._broadcast({"gathered": tag, "values": in_order})

    def _decide(self) -> None:
        """Decides where all stop, as soon as enough is known.

        While one process has not made an update nothing can have been saved in this start, so
        nothing is lost by ending at once. Otherwise all stop at the first point that nobody has
        passed; from their answers on they pass none without asking. A process that comes to no
        more points is about to end, and so are the others.
        """
        members = self._members.values()
        if self._stopping is None or self._stop_at is not None:
            return
        if any(member.began is False for member in members):
            self._stop_at = NOW
        elif len(members) < self._count:
            return
        elif any(member.finishing for member in members):
            self._stop_at = NEVER
        elif all(member.passed is not None for member in members):
            self._stop_at = 1 + max(m.passed for m in members if m.passed is not None)
        else:
            return
        self._broadcast({"stop_at": self._stop_at})

    def _lose(self, member: _Member, why: str) -> None:
        member.ended = True
        self._judge({"lost": {"process": member.process, "host": member.host, "why": why}})

    def _judge(self, verdict: Message) -> None:
        """Tells all why the job ends, whoever comes later too; what follows from it is no news."""
        if self._verdict is None:
            self._verdict = verdict
            self._broadcast(verdict)

    def _broadcast(self, message: Message) -> None:
        for member in list(self._members.values()):
            member.link.send(message)
