"""The control channel: who is let in, what is handed on, and where a job stops."""

import socket
import time
from typing import ClassVar

import pytest

from ptft_jax.training.cluster.control_channel import Link, Server, connect

TOKEN = "t0ken"


@pytest.fixture
def server():
    return Server(count=3, token=TOKEN, heartbeat_seconds=60)


@pytest.fixture(autouse=True)
def opened():
    """Closes the connections of a test."""
    yield
    while Member.opened:
        Member.opened.pop().close()


class Member:
    """A process of the job, as far as the channel sees it."""

    opened: ClassVar[list[Link]] = []

    def __init__(self, server, process):
        hello = {"token": TOKEN, "process": process, "host": f"host{process}"}
        self.link = connect(("localhost", server.port), hello, 5)
        self.link.connection.settimeout(5)
        self.opened.append(self.link)
        self.messages = []

    def send(self, **message):
        assert self.link.send(message)

    def next(self, key):
        """The value of the next message that has `key`."""
        while True:
            for index, message in enumerate(self.messages):
                if key in message:
                    return self.messages.pop(index)[key]
            received = self.link.receive()
            assert received is not None, f"the connection ended before {key!r}"
            self.messages += received


@pytest.fixture
def members(server):
    return [Member(server, process) for process in range(3)]


def test_all_get_what_all_gave(members):
    """In the order of the processes, whoever came first; tags are kept apart."""
    for member, value in zip(members[::-1], "cba", strict=True):
        member.send(gather="x", value=value)
    members[1].send(gather="y", value=1)
    for member in members:
        assert member.next("values") == ["a", "b", "c"]
    for member in (members[0], members[2]):
        member.send(gather="y", value=2)
    assert members[0].next("values") == [2, 1, 2]


@pytest.mark.parametrize(
    "first",
    [
        b'{"hello": {"token": "wrong", "process": 0, "host": "h"}}\n',
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff\xfe\n",
        b"x" * 5000,
    ],
)
def test_strangers_are_hung_up_on(server, members, first):
    """Whoever does not know the token is not listened to, and disturbs nobody."""
    with socket.create_connection(("localhost", server.port), timeout=5) as stranger:
        stranger.sendall(first)
        assert stranger.recv(100) == b""
    for member in members:
        member.send(gather="after", value=0)
    assert members[2].next("values") == [0, 0, 0]


def test_a_lost_process_is_named(members):
    """A connection that ends without a goodbye is a process that died."""
    members[1].link.close()
    for member in (members[0], members[2]):
        lost = member.next("lost")
        assert (lost["process"], lost["host"]) == (1, "host1")


def test_a_silent_process_is_named():
    """A frozen process keeps its connection; only its silence tells."""
    server = Server(count=2, token=TOKEN, heartbeat_seconds=0.5)
    talking, _silent = Member(server, 0), Member(server, 1)
    until = time.monotonic() + 5
    while time.monotonic() < until:
        talking.send(beat=True)
        talking.messages += talking.link.receive() or []
        lost = [message["lost"] for message in talking.messages if "lost" in message]
        if lost:
            break
        time.sleep(0.05)
    assert lost[0]["process"] == 1
    assert "silent" in lost[0]["why"]


def test_a_failure_is_handed_on(members):
    """With its exit code and its message, so that all end alike."""
    members[2].send(fail={"code": 74, "message": "disk full"})
    for member in members[:2]:
        failed = member.next("failed")
        assert failed == {"process": 2, "host": "host2", "code": 74, "message": "disk full"}


@pytest.mark.parametrize(
    ("finishing", "stands", "where"),
    [
        # Nobody can go back, so all go on to where the farthest one comes next.
        (False, [(True, 7), (True, 9), (True, 8)], 10),
        # One process that has not made an update means that none has saved one.
        (False, [(True, 0), (False, 0), (True, 0)], "now"),
        # A process that comes to no more points cannot wait at one: all end as they would have.
        (True, [(True, 11)] * 3, "never"),
    ],
)
def test_where_all_stop(members, finishing, stands, where):
    """The same point for all of them, or the job would hang in a collective."""
    if finishing:
        members[2].send(finishing=True)
    members[1].send(stop=75)
    for member, (began, passed) in zip(members, stands, strict=True):
        assert member.next("stopping")["process"] == 1
        member.send(stands={"began": began, "passed": passed})
    assert [member.next("stop_at") for member in members] == [where] * 3


def test_who_comes_late_hears_of_the_stop_and_of_the_loss(server):
    """Both may come while others are still on their way."""
    early, lost = Member(server, 0), Member(server, 1)
    early.send(stop=75)
    early.next("stopping")
    early.send(stands={"began": False, "passed": 0})
    assert early.next("stop_at") == "now"
    lost.link.close()
    assert early.next("lost")["process"] == 1
    late = Member(server, 2)
    assert late.next("stopping")["code"] == 75
    assert late.next("stop_at") == "now"
    assert late.next("lost")["process"] == 1
