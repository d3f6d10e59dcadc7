"""What a worker says while the end user reads nothing, since it imports or converts a model."""

import queue

import pytest
from loopback import Loopback

from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.net.handshake import Handshake, Report, hello, next_message, report
from jarvis_mpi.net.shutdown import give_up
from jarvis_mpi.protocol.link import Silence
from jarvis_mpi.protocol.notes import GivesUp, read
from jarvis_mpi.protocol.wire import HEADER, MAGIC, VERSION, Kind, Message


class LinkOfOneWhoImports:
    """Nothing that is sent is under way yet."""

    end_user = 0

    me = 1

    def __init__(self):
        self.sent, self.waited_s = [], 0.0

    def send(self, node, data):
        self.sent.append((node, data))

    def flush(self, timeout_s):
        self.waited_s += timeout_s
        raise Silence("1 message could not be sent")


def test_a_worker_goes_on_while_the_end_user_reads_nothing():
    link, mine = LinkOfOneWhoImports(), hello(1, "fingerprint")
    report(link, mine)
    [(node, data)] = link.sent
    assert (node, read(Message.unpack(bytearray(data)), Report)) == (0, Report(1, mine))
    assert link.waited_s < 2


def test_who_gives_up_stays_until_the_end_user_can_have_read_why():
    class Link(LinkOfOneWhoImports):
        def receive(self, timeout_s):
            self.waited_s += timeout_s
            raise Silence("nothing arrived")

    link = Link()
    assert not give_up(link, "no room", 500.0, 30.0, lambda: 0.0)
    assert read(Message.unpack(bytearray(link.sent[0][1])), GivesUp).sentence == "no room"
    assert link.waited_s == 500.0


def test_nonsense_at_the_start_is_dropped_and_another_version_named():
    queues = [queue.Queue(), queue.Queue()]
    end_user, worker = (Loopback(node, queues) for node in range(2))
    start = Handshake(end_user, 5.0, lambda: 0.0)
    note, beat = Message(Kind.NOTE, body=b"[1]").pack(), Message(Kind.BEAT, body=b"x").pack()
    for nonsense in (b"", b"x" * 99, note, beat):
        worker.send(0, nonsense)
        end_user.send(1, nonsense[:9])
    worker.send(0, Report(1, hello(1, "f")).pack())
    assert sorted(start.gather(hello(0, "f"))) == [0, 1]
    end_user.send(1, Message(Kind.GOODBYE).pack())
    assert next_message(worker, 5.0, lambda: 0.0).kind is Kind.GOODBYE
    worker.send(0, MAGIC + bytes([VERSION + 1]) + bytes(HEADER.size))
    with pytest.raises(Unservable, match="a node has another version of jarvis_mpi"):
        start.gather(hello(0, "f"))
