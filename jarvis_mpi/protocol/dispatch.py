"""A step's way out and back: cut into pieces, embedded, sent round the route, taken in again.

Nothing is decided here: the route is given, and so is whether a step is sent again.
"""

from collections import deque

from ..common.errors import Unservable
from .cluster import Hop
from .election import Term, since_of
from .failure_detector import FailureDetector
from .journal import Behind
from .link import Lost
from .notes import Sendable
from .request import Request, Step, pieces
from .services import Services
from .wire import Garbled, Kind, Message, StageRun
from .worker import run_local_hops

ATTEMPTS = 300  # of one step: each fault costs one, and one for every stage that has to run again


class Dispatch:
    def __init__(self, services: Services, detector: FailureDetector, prefill_rows: int, term: Term):
        self.services, self.detector, self.prefill_rows = services, detector, prefill_rows
        self.requests: dict[int, Request] = {}  # sequence -> its request
        self.complete: deque[Request] = deque()  # those whose step has returned whole
        self.epoch, self.route = term.first_epoch, tuple[Hop, ...]()  # of what was sent last
        self.lost: set[int] = set()  # noticed while sending, not yet acted upon
        self.row_bytes = 0  # of an activation

    def send(self, node: int, message: Sendable) -> None:
        try:
            self.services.link.send(node, message.pack())
        except Lost as lost:
            self.lost |= set(lost.nodes)

    def take_lost(self) -> set[int]:
        """Nodes that were found to be lost while sending, each once."""
        lost, self.lost = self.lost, set()
        return lost

    def is_busy(self) -> bool:
        """Whether any step is under way, or waits."""
        return any(request.step is not None or request.waits for request in self.requests.values())

    def step_number(self, sequence: int, otherwise: int) -> int:
        """The number of the sequence's step under way; else the oldest of all."""
        numbers = {each.sequence: each.step.number for each in self.requests.values() if each.step}
        return numbers.get(sequence, min(numbers.values(), default=otherwise))

    def of_epoch(self, sequence: int, epoch: int) -> Request | None:
        """The sequence's request, if its step was sent last at that epoch."""
        request = self.requests.get(sequence)
        return request if request and request.step and request.step.epoch == epoch else None

    def withdraw(self, request: Request) -> None:
        """What has returned of it is not wanted."""
        self.complete = deque(other for other in self.complete if other is not request)

    def drop(self, sequence: int) -> None:
        """It ends here: nothing of it is under way."""
        if request := self.requests.pop(sequence, None):
            self.withdraw(request)
        self.detector.steps.drop(sequence)

    def break_off(self) -> None:
        """What is under way is not waited for any more."""
        self.detector.steps.pause()
        self.complete.clear()
        for request in self.requests.values():
            request.step, request.waits = None, False

    def send_step(self, request: Request, step: Step, route: tuple[Hop, ...], again: bool = False) -> None:
        """Embed what is to be run and send it over `route`.

        A prompt travels in pieces, one behind the other, so that while one node works on a piece the
        next works on the piece before; beside other requests the next when one returns, so that those do not
        wait for all of it. What is sent `again` goes as one.
        """
        services = self.services
        if again or route != self.route:
            self.epoch, self.route = self.epoch + 1, route
            services.observer.route(services.clock(), step.number, self.epoch, route)
        request.step, step.epoch, step.route = step, self.epoch, route
        step.since = services.clock()
        step.sent_at = step.sent_at or step.since
        request.ran = step.end - len(step.drafts)
        alone = all(other.step is None for other in self.requests.values() if other is not request)
        sure = request.ran - step.start
        sizes = [sure] if again else pieces(sure, self.prefill_rows, services.link.size - 1)
        sizes[-1] += len(step.drafts)
        step.unsent = [step.start + sum(sizes[: piece + 1]) for piece in range(len(sizes))]
        step.awaited = set(step.unsent)
        sent = self._send_piece(request, step, again=again)
        while sent and alone and step.unsent:
            sent = self._send_piece(request, step, more=True)
        if not sent:
            self.resend_step(request, step, route)

    def resend_step(self, request: Request, step: Step, route: tuple[Hop, ...]) -> None:
        """Raises Unservable after too many attempts."""
        step.attempts += 1
        if step.attempts > ATTEMPTS:
            raise Unservable(f"step {step.number} left {ATTEMPTS} times and did not come home")
        request.progress.forget_in_flight()
        self.send_step(request, step, route, again=True)

    def step_returned(self, message: Message, received_bytes: int) -> bool:
        """Take in a piece of a step. -> False if the step has to be sent again.
        Raises Garbled where it is none that this cluster can have made."""
        if since_of(message.epoch) != since_of(self.epoch):
            return True  # an end user before asked for it
        if len(message.body) != message.rows * self.row_bytes or not self.is_ours(message):
            raise Garbled(f"{message} with a body of {len(message.body)} bytes")
        request = self.of_epoch(message.sequence, message.epoch)
        step = request.step if request else None
        if not request or not step or message.step != step.number or message.end not in step.awaited:
            return True  # late or doubled: it changes nothing
        return self._pass_on(message, request, step, received_bytes)

    def is_ours(self, message: Message) -> bool:
        """Whether its hops are of nodes that there are, and this node's of blocks that it holds."""
        nodes = self.detector.liveness.keys() | {self.services.link.me}
        named = {hop.node for hop in message.ahead} | {run.node for run in message.runs}
        return named <= nodes and self.services.stages.keys() >= set(message.blocks_of(self.services.link.me))

    def _send_piece(self, request: Request, step: Step, more: bool = False, again: bool = False) -> bool:
        """The step's next piece. -> as _pass_on."""
        services = self.services
        end = step.unsent.pop(0)
        drafted = len(step.drafts) if end == step.end else 0
        hops = request.progress.hops(step.route, end - 1 - drafted)
        request.progress.sent(hops, end)
        self.detector.steps.sent(request.sequence, hops, step.epoch, end, services.clock(), more, again)
        start, begun = hops[0].since, services.clock()
        ids = [*request.ids[start : end - drafted], *step.drafts[:drafted]]
        body = services.head.embed(ids, start)
        step.embed_s += services.clock() - begun
        self.row_bytes = len(body) // len(ids)
        message = Message(
            Kind.STEP, request.sequence, step.epoch, step.number, start, end - start, step.start, drafted,
            request.branch, hops, body=body,
        )  # fmt: skip
        return self._pass_on(message, request, step, 0)

    def _pass_on(self, message: Message, request: Request, step: Step, received_bytes: int) -> bool:
        """Run the end user's own hops next on the way, then send on, or take in what has returned.

        -> False if one of its stages has forgotten what it sent, and must run it again.
        """
        services = self.services
        arrival = StageRun(
            services.link.me, range(0), 0, services.clock() - step.since, 0.0, 0.0, received_bytes,
            vitals=services.vitals(),
        )  # fmt: skip
        try:
            message = run_local_hops(arrival, services.stages, services.patch, message, services.clock)
        except Behind as behind:
            request.progress.behind(services.link.me, behind.block, behind.have)
            return False
        step.since = services.clock()
        if message.ahead:
            self.send(message.ahead[0].node, message)
            return True
        step.awaited.discard(message.end)
        step.returned.append(message)
        request.progress.returned(step.route, message.end)
        nodes = {hop.node for hop in step.route}
        self.detector.step_returned(request.sequence, nodes, step.since, not step.awaited)
        if not step.awaited:
            self.complete.append(request)
        return not step.unsent or self._send_piece(request, step, more=True)
