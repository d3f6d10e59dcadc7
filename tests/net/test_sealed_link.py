"""A sealed link over a network that lies: only new messages of nodes, for the node that they are for, come
through."""

import os
import queue
import random
import threading
import time
from collections.abc import Sequence

import pytest

from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.net.sealed_link import HEADER, REMEMBERED, ClearLink, SealedLink, Window, sealed
from jarvis_mpi.protocol.link import Silence
from jarvis_mpi.protocol.wire import Kind, Message

KEY = bytes(range(32))
STEP = Message(Kind.STEP, step=7, rows=1, body=b"the sky is blue" * 300).pack()


class Post:
    """Every node's letter box; what travels can be seen and put there by anybody."""

    def __init__(self, size: int):
        self.boxes = [queue.Queue[tuple[int, bytes]]() for _ in range(size)]

    def take(self, node: int) -> tuple[int, bytes]:
        return self.boxes[node].get_nowait()

    def put(self, node: int, sender: int, data: bytes) -> None:
        self.boxes[node].put((sender, data))


class Plain:
    """A Link over a Post, as MPI's is: `sender` is who claims to have sent."""

    def __init__(self, me: int, post: Post):
        self.me, self.size, self.post, self.sender = me, len(post.boxes), post, -1

    def send(self, node: int, data: bytes) -> None:
        self.post.put(node, self.me, data)

    def beat(self, node: int, data: bytes) -> None:
        self.post.put(node, self.me, data)

    def receive(self, timeout_s: float) -> bytearray:
        try:
            self.sender, data = self.post.boxes[self.me].get(timeout=max(timeout_s, 1e-3))
        except queue.Empty:
            raise Silence(f"nothing arrived in {timeout_s:g} s") from None
        return bytearray(data)


def links(size: int, keys: Sequence[bytes] = ()) -> tuple[Post, list[SealedLink], list[str]]:
    """-> what carries, a sealed link for each node, what they say."""
    post, said = Post(size), list[str]()
    keys = keys or [KEY] * size
    return post, [SealedLink(Plain(node, post), key, said.append) for node, key in enumerate(keys)], said


def hears_nothing(link: SealedLink) -> bool:
    with pytest.raises(Silence):
        link.receive(0.05)
    return True


def test_what_is_sent_arrives_and_names_its_sender():
    _, (end_user, worker, _), said = links(3)
    worker.send(0, STEP)
    assert (end_user.receive(1.0), end_user.sender) == (STEP, 1)
    end_user.send(1, b"")
    assert worker.receive(1.0) == b""
    assert (end_user.refused, said) == ("", [])


def test_nothing_of_a_message_can_be_read():
    post, (end_user, worker), _ = links(2)
    for _ in range(2):
        end_user.send(1, STEP)
    first, second = (post.take(1)[1] for _ in range(2))
    assert len(first) == len(STEP) + HEADER.size + 16
    assert first[HEADER.size :] != second[HEADER.size :]
    assert not any(word in first for word in (b"JMPI", b"sky"))
    assert worker.opened(0, second) == STEP


def changed(data: bytes, how: str) -> bytes:
    dice = random.Random(how)
    match how:
        case "a bit of the number":
            place = dice.randrange(4, HEADER.size)
        case "a bit of the magic":
            place = dice.randrange(4)
        case "a bit of the tag":
            place = dice.randrange(len(data) - 16, len(data))
        case "a bit of the text":
            place = dice.randrange(HEADER.size, len(data) - 16)
        case "too short":
            return data[:-1]
        case "its header":
            return data[: HEADER.size]
        case "nothing":
            return b""
        case "a few bytes":
            return data[:7]
        case "too long":
            return data + b"\0"
        case "another text behind it":
            return data + data
        case _:
            return os.urandom(len(data))
    return data[:place] + bytes([data[place] ^ 1 << dice.randrange(8)]) + data[place + 1 :]


CHANGES = (
    "a bit of the number", "a bit of the magic", "a bit of the tag", "a bit of the text", "too short",
    "its header", "nothing", "a few bytes", "too long", "another text behind it", "noise",
)  # fmt: skip


@pytest.mark.parametrize("how", CHANGES)
def test_what_was_changed_is_dropped_and_counted_and_the_next_is_heard(how):
    post, (end_user, worker), said = links(2)
    end_user.send(1, STEP)
    post.put(1, 0, changed(post.take(1)[1], how))
    end_user.send(1, b"the next")
    assert (worker.receive(1.0), worker.dropped) == (b"the next", {0: 1})
    assert worker.refused == "node 1 dropped 1 messages as of node 0: not theirs, or not new"
    assert not said


def test_without_a_key_what_was_changed_or_doubled_is_believed():
    """What sealing is for."""
    post = Post(2)
    end_user, worker = Plain(0, post), Plain(1, post)
    end_user.send(1, STEP)
    _, data = post.take(1)
    for each in (data, data, changed(data, "a bit of the text")):
        post.put(1, 0, each)
    came = [Message.unpack(worker.receive(1.0)) for _ in range(3)]
    assert came[0].body == came[1].body != came[2].body


def test_a_message_counts_once_whenever_it_is_said_again():
    post, (end_user, worker), _ = links(2)
    end_user.send(1, STEP)
    _, data = post.take(1)
    for _ in range(2):
        post.put(1, 0, data)
    assert worker.receive(1.0) == STEP
    assert hears_nothing(worker)
    for _ in range(2 * REMEMBERED):  # long forgotten
        end_user.send(1, b"x")
        worker.receive(1.0)
    post.put(1, 0, data)
    assert hears_nothing(worker)
    assert worker.dropped == {0: 2}


def test_a_message_is_for_one_node_and_of_one_node():
    post, (end_user, first, second), _ = links(3)
    end_user.send(1, STEP)
    _, data = post.take(1)
    post.put(2, 0, data)  # moved to another
    post.put(0, 1, data)  # and back, as an answer
    post.put(1, 2, data)  # as if another had sent it
    assert all(hears_nothing(link) for link in (end_user, first, second))
    post.put(1, 0, data)
    assert first.receive(1.0) == STEP


def test_a_message_of_another_run_is_dropped():
    _, (end_user, worker), _ = links(2, [KEY, bytes(32)])
    end_user.send(1, STEP)
    assert hears_nothing(worker)
    assert worker.dropped == {0: 1}


def test_a_flood_of_strangers_messages_does_not_hold_a_wait_up():
    class Flooded(Plain):
        def receive(self, timeout_s: float) -> bytearray:
            return bytearray(b"noise" * 9)

    worker = SealedLink(Flooded(1, Post(2)), KEY, print)
    begun = time.monotonic()
    with pytest.raises(Silence):
        worker.receive(0.1)
    assert time.monotonic() - begun >= 0.1
    assert worker.dropped.total() > 10


def test_beats_of_another_thread_and_10000_messages_come_all_and_in_order():
    _, (end_user, worker), _ = links(2)
    count, over, beats = 10_000, threading.Event(), [0]

    def beat() -> None:
        while not over.is_set():
            worker.beat(0, b"beat")
            beats[0] += 1
            time.sleep(1e-5)

    thread = threading.Thread(target=beat)
    thread.start()
    for number in range(count):
        worker.send(0, number.to_bytes(4))
    over.set()
    thread.join(10.0)
    assert beats[0]
    came = [end_user.receive(1.0) for _ in range(count + beats[0])]
    assert [data for data in came if data != b"beat"] == [number.to_bytes(4) for number in range(count)]
    assert not end_user.dropped


def test_a_window_takes_each_number_once_in_any_order_within_its_width():
    window = Window()
    numbers = [*range(0, 1000)]
    dice = random.Random(1)
    for start in range(0, 1000, 100):
        part = numbers[start : start + 100]
        dice.shuffle(part)
        assert all(window.takes(number) for number in part)
        assert not any(window.takes(number) for number in part)
    assert window.takes(1 << 60)
    assert not window.takes((1 << 60) - REMEMBERED)
    assert window.takes((1 << 60) - REMEMBERED + 1)
    assert not window.takes(999)


def test_who_sends_in_the_clear_is_named_once():
    post, (end_user, _), said = links(2)
    clear = sealed(Plain(1, post), KEY, said.append).link
    for _ in range(3):
        clear.send(0, STEP)
    assert hears_nothing(end_user)
    assert said == [
        "node 1 sends in the clear, and is not heard: give every host the same jarvis_mpi, and all ranks the "
        "same --secure"
    ]


def test_a_rank_without_a_key_names_who_seals_once():
    post, (end_user, _), _ = links(2)
    clear = sealed(Plain(1, post), b"", print)
    assert isinstance(clear, ClearLink)
    for _ in range(2):
        end_user.send(1, STEP)
    with pytest.raises(Unservable, match=r"node 0 seals its messages, but node 1 was given no key"):
        clear.receive(1.0)
    assert clear.receive(1.0) != STEP
    post.put(1, 0, STEP)
    assert (clear.receive(1.0), clear.sender) == (STEP, 0)
