"""A worker's hello, while the end user reads nothing."""

from jarvis_mpi.net.handshake import Report, hello, report
from jarvis_mpi.protocol.link import Silence
from jarvis_mpi.protocol.notes import read
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
