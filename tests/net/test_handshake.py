"""What a worker says while the end user reads nothing, since it imports or converts a model."""

from jarvis_mpi.net.handshake import Report, hello, report
from jarvis_mpi.net.shutdown import give_up
from jarvis_mpi.protocol.link import Silence
from jarvis_mpi.protocol.notes import GivesUp, read
from jarvis_mpi.protocol.wire import Message


class LinkOfOneWhoImports:
    """Nothing that is sent is under way yet."""

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
