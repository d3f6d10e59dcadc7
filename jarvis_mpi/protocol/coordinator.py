"""Rank 0: a prompt in, tokens out. READ THIS FIRST.

A token's way: embed it, send the activation round the route (each node runs its layers and passes it
on), turn what returns into logits, choose the next token. If a node fails on the way, the same step
is sent again over another route, and whoever has done its part already only sends it once more.

Several requests may be in flight: while one node works on a step of one of them, the next node does on
another's. And a step may carry drafts behind its token, guesses of the tokens to come: one way round tells
for each whether it is right.

`dispatch` sends and takes in steps, `failure_detector` turns what was heard into signs, `cluster` says what
follows from a sign, `verification` makes tokens of what returned: here is the loop that joins them.
"""

from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import replace

from .cluster import Cluster
from .dispatch import Dispatch
from .events import Token
from .failure_detector import FailureDetector, Notice
from .incoming_notes import NOTES, from_sender, take_note
from .link import Lost, Silence
from .maintenance import Maintenance
from .node_state import Sign, State
from .notes import ForgetSequence, read
from .request import Request, Step
from .route_changes import RouteChanges
from .services import Parameters, Services
from .tenure import Tenure
from .verification import accept_tokens
from .wire import APART, Beat, Garbled, Kind, Message

CLOCK_ROUND_TRIPS, CLOCK_ROUND_TRIP_S = 5, 0.2  # to each worker at the start, and the longest wait for one


class Coordinator:
    """Everything rank 0 needs to ask. `sequence` is the text that `generate` continues."""

    def __init__(self, services: Services, cluster: Cluster, parameters: Parameters):
        self.services, self.clock, self.me = services, services.clock, services.link.me
        self.cluster = cluster
        self.detector = FailureDetector(
            cluster.holds, parameters.patience, parameters.pace, self.clock(), parameters.row_s, self.me
        )
        self.dispatch = Dispatch(services, self.detector, parameters.prefill_rows, parameters.term)
        self.tenure = Tenure(self.me, parameters.term, cluster.holds, self.dispatch.send, self.clock)
        self.maintenance = Maintenance(services, self.dispatch.send, parameters.speak_s)
        self.route_changes = RouteChanges(cluster, parameters.expected_loss)  # what was told last
        self.sequence = self.step = 0  # the next step's number

    def generate(
        self, text: Sequence[int], max_new_tokens: int, end_ids: Set[int],
        wanted: Callable[[], bool] = lambda: True,
    ) -> Iterator[Token]:  # fmt: skip
        """Yield the answer's tokens, the end token included. Raises Unservable if too little is left.

        `text` is all of the sequence so far: if it continues an earlier answer, only what is new is run.
        Where no more is `wanted`, a step is not waited for.
        """
        self.add_request(self.sequence, text, max_new_tokens, end_ids)
        yield from self.tokens(wanted)

    def add_request(self, sequence: int, text: Sequence[int], max_new_tokens: int, end_ids: Set[int]) -> None:
        """An answer begins, beside those that are in flight: `tokens` yields theirs and its own."""
        requests = self.dispatch.requests
        if sequence not in requests:
            requests[sequence] = Request(sequence, self.route_changes.for_another_sequence())
        request = requests[sequence]
        self.dispatch.withdraw(request)
        self.tenure.withdraw(sequence)
        new_from = request.continue_with(text)
        self.tenure.replication.add("text", sequence, request.branch, new_from, list(text[new_from:]))
        self.tenure.replication.flush()
        request.tokens_left, request.end_ids, request.chosen_at = max_new_tokens, end_ids, self.clock()
        request.step, request.waits = None, True  # what is under way of it comes too late
        self._send_waiting(self._is_unsure())

    def _send_waiting(self, unsure: bool) -> None:
        """The first steps of those that were added, once it is sure who can be heard."""
        for request in [each for each in self.dispatch.requests.values() if each.waits and not unsure]:
            request.waits = False
            self._send_next_step(request)

    def tokens(self, wanted: Callable[[], bool] = lambda: True) -> Iterator[Token]:
        """Yield what comes of all requests in flight, until none is under way; see `generate`.
        Raises Unanswerable of one of them, for which the caller then calls `forget_sequence`; called again,
        it yields what comes of the others.

        The next token's activation is sent before a token is yielded: it travels while that one is shown, and
        while the standby takes it in.
        """
        while True:
            if request := self._next_complete(wanted):
                assert request.step
                tokens, ended = accept_tokens(self.services, request, request.step)
                if not ended:
                    self._send_next_step(request)
                self.tenure.hold(tokens)
            elif not self.tenure.can_show(self.detector.looked_at):
                return
            yield from self.tenure.shown(self.detector.looked_at)

    def start_sequence(self) -> None:
        """What comes next is another text, a new sequence."""
        self.forget_sequence(self.sequence)
        self.sequence += 1

    def forget_sequence(self, sequence: int) -> None:
        """It ends here: it is forgotten everywhere, and what is under way of it is late."""
        self.dispatch.drop(sequence)
        self.tenure.withdraw(sequence)
        self.services.drafts.finished(sequence)
        for stage in self.services.stages.values():
            stage.forget(sequence)
        for node in self.cluster.holds:
            if node != self.me and self.cluster.state(node) is not State.LOST:
                self.dispatch.send(node, ForgetSequence(sequence))

    def _send_next_step(self, request: Request) -> None:
        drafts = self.services.drafts.propose(request.sequence, request.ids, request.tokens_left - 1)
        step = Step(self.step, request.ran, len(request.ids) + len(drafts), drafts)
        self.step += 1
        self.dispatch.send_step(request, step, self.cluster.route())

    def _next_complete(self, wanted: Callable[[], bool]) -> Request | None:
        """Wait until all of a step has been everywhere, and mend routes where that is needed.
        -> None where no step is under way, none is wanted any more, or a token can be shown."""
        dispatch, heard_all = self.dispatch, False
        while (unsure := self._is_unsure()) or not (dispatch.complete and heard_all):
            if self.tenure.can_show(self.detector.looked_at):
                return None
            self._send_waiting(unsure)
            goes_on = dispatch.complete or dispatch.is_busy() or self.tenure.held
            if (unsure or not dispatch.complete) and not (wanted() and goes_on):
                return None
            at_once = not unsure and (dispatch.complete or self.services.drafts.propose_ahead())
            notices, heard_all = self.hear(0.0 if at_once else self.detector.look_again_s(self.clock()))
            self.mend(notices)
            self._order(self.step)  # while the others mend the step
        request = dispatch.complete.popleft()
        assert request.step
        number, last = request.step.number, request.step.last_piece()
        for change in request.route_changes.changes(number, last.runs, last.lacks):
            self.services.observer.change(self.clock(), change)
        self.route_changes = request.route_changes
        self._order(number)
        self.maintenance.shrink_to_those_left(self.cluster, self.route_changes.last_sign, number)
        self.maintenance.speak(self.cluster)
        return request

    def _is_unsure(self) -> bool:
        return self.tenure.is_unsure(self.cluster, self.detector.unheard(self.clock()))

    def mend(self, notices: Sequence[Notice]) -> None:
        """Do what follows from these signs."""
        for request in self.act_on(notices):
            if request.step and request.step.awaited:
                self.dispatch.resend_step(request, request.step, self.cluster.route())

    def rest(self) -> None:
        """While no text is wanted: hear what becomes of the others."""
        self.maintenance.speak(self.cluster)
        self.dispatch.break_off()
        heard_all = False
        while not heard_all:
            notices, heard_all = self.hear(0.0)
            self.act_on(notices)
        self._order(self.step)

    def _order(self, step: int) -> None:
        """What lets the next fault find a copy, and a standby, again."""
        self.cluster = self.maintenance.order_copies(self.cluster, step)
        self.tenure.next_standby.order(self.cluster)

    # -- signs

    def hear(self, wait_s: float) -> tuple[list[Notice], bool]:
        """What the next message, or its absence, is a sign of, and whether all that has arrived is heard.
        Raises Deposed where another node is the end user."""
        if lost := self.dispatch.take_lost():
            return [Notice(node, Sign.LOST) for node in lost], False
        try:
            data = self.services.link.receive(wait_s)
            return self._take_in(Message.unpack(data), len(data)), False
        except Silence:
            self.tenure.look()
            return self.detector.signs(self.cluster, self.clock()), True
        except Lost as error:
            return [Notice(node, Sign.LOST) for node in error.nodes], False
        except Garbled:
            return self.detector.garbled(self.services.link.sender), False

    def _take_in(self, message: Message, received_bytes: int) -> list[Notice]:
        """What came: of a step, of a node's life, or a note. MISSING asks for the step to be sent again."""
        match message.kind:
            case Kind.BEAT:
                self.detector.heard(from_sender(self.services.link, Beat.of(message)), self.clock())
            case Kind.NOTE:
                note = read(message, *NOTES)
                return take_note(self, note and from_sender(self.services.link, note))
            case Kind.STEP if not self.dispatch.step_returned(message, received_bytes):
                return [Notice(self.me, Sign.MISSING, message.sequence)]
        return []

    def act_on(self, notices: Sequence[Notice]) -> list[Request]:
        """Change the cluster by these signs. -> the requests whose step must be sent again."""
        missing = {notice.sequence for notice in notices if notice.sign is Sign.MISSING}
        for node, sign, sequence in notices:
            before, self.cluster = self.cluster, self.cluster.with_event(node, sign)
            if self.cluster is not before or sign is Sign.MISSING:
                step = self.dispatch.step_number(sequence, self.step)
                self.services.observer.sign(self.clock(), step, node, sign)
                self.route_changes.sign_seen(node, sign)
            if self.cluster is not before:
                self.tenure.sign_seen(node, sign)
            if sign in (Sign.GIVEN_UP, Sign.GARBLED):  # should it ever wake up
                self.dispatch.send(node, Message(Kind.GOODBYE, body=APART))
        if (standby := self.tenure.term.standby) != self.cluster.standby:
            self.cluster = replace(self.cluster, standby=standby)
            self.services.observer.stands_by(self.clock(), self.step, standby)
        if not self.tenure.doubt.can_decide(bool(notices), self._is_unsure()):
            return []
        under_way = self.dispatch.requests.values()
        return [each for each in under_way if each.sequence in missing or is_ill(self.cluster, each)]


def is_ill(cluster: Cluster, request: Request) -> bool:
    """Whether somebody on its step's way is not well, and there is a better one. Raises Unservable."""
    if not request.step or not request.step.awaited:
        return False
    route = request.step.route
    return any(cluster.state(hop.node) is not State.UP for hop in route) and cluster.route() != route


def compare_clocks(asker: Coordinator) -> None:
    """At the start, while nobody works: the best of a few round trips to each worker."""
    for node in asker.cluster.holds.keys() - {asker.me}:
        for _ in range(CLOCK_ROUND_TRIPS):
            asker.maintenance.ask_clocks([node])
            end = asker.clock() + CLOCK_ROUND_TRIP_S
            while node in asker.maintenance.clocks_asked and asker.clock() < end:
                notices, _ = asker.hear(max(0.0, end - asker.clock()))
                asker.act_on(notices)
            if asker.clock() >= end:
                break  # it is slow, or not there
