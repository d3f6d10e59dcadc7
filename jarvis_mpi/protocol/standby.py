"""A worker that takes over from the end user: it has the transcript, and what the end user holds."""

from collections.abc import Callable, Iterable

from ..common.errors import Unservable
from ..common.layers import Block
from .campaign import Campaign
from .election import FEWEST, FIRST, NOBODY, Term
from .journal import Journalled
from .link import Link, Lost
from .notes import Acknowledged, Entries, StandBy, StandsBy, Vote, read
from .transcript import Ran, Transcript
from .wire import Kind, Message, Vitals
from .worker import Clock, Ended, Patch, Stages, Worker, no_patch

LOOK_S = 0.25  # between looks for the end user
ALONE_S = 75.0  # longest silence that is borne once nobody watches over the ranks
FRESH_S = 0.5  # less than an end user needs to go on without a standby that it hears no more
MORE_S = 0.5  # than a worker may: for so long the end user may be silent


# Begins to load what a standby has beside layers. -> whether that is done; the latter raises Unservable.
Prepare = Callable[[], Callable[[], bool]]


def nothing_to_prepare() -> Callable[[], bool]:
    return lambda: True


class StandbyWorker(Worker):
    """`silence_s`: how long a node may be silent; the rest as a Worker."""

    def __init__(
        self, link: Link, stages: Stages, clock: Clock, load: Callable[[Block], Journalled], beat_s: float,
        vitals: Callable[[], Vitals] = Vitals, patch: Patch = no_patch, term: Term = FIRST,
        silence_s: float = 1.0, prepare: Prepare = nothing_to_prepare,
    ):  # fmt: skip
        super().__init__(link, stages, clock, load, beat_s, vitals, patch, term)
        self.prepare = prepare
        self.is_prepared: Callable[[], bool] | None = None  # while that is awaited
        self.silence_s = silence_s + MORE_S
        self.transcript = Transcript()
        self.campaign = Campaign(self.link.me, self.pass_on)
        self.heard_at = self.looked_at = self.clock()
        self.silent_looks = 0  # since it was heard
        self.certain: frozenset[int] = frozenset()  # nodes that are gone
        self.certain_when_heard = self.certain  # from the end user
        self.heard_last = term.end_user  # not this node, where it claims to be the end user
        self.heard_to_the_end = NOBODY  # an end user that was heard until it died
        self.voted: dict[int, list[Ran]] = {}  # node -> how far its stages are
        self.heard_of: dict[int, float] = {}  # node -> when it last said that it is at work, or voted
        self.claimed_at = 0.0

    @property
    def stands_by(self) -> bool:
        """Whether this node is to take over, and knows what: at the start the end user waits for others."""
        return self.term.standby == self.link.me and bool(self.transcript.entries)

    @property
    def is_preparing(self) -> bool:
        return self.is_prepared is not None and self.succession_by is None

    def take(self, message: Message, received_bytes: int) -> None:
        self.say_if_ready()
        if self.link.sender == self.term.end_user:
            self.heard_at, self.certain_when_heard, self.silent_looks = self.clock(), self.certain, 0
            self.heard_last = self.term.end_user
            self.campaign.withdraw()
        if message.kind is Kind.BEAT:
            self.heard_of[self.link.sender] = self.clock()
        if message.kind is not Kind.NOTE:
            super().take(message, received_bytes)
            return
        match read(message, Entries, Vote, StandBy):
            case Entries(first, entries) if self.link.sender == self.term.end_user:
                self.transcript.take(first, entries)
                self.pass_on(self.term.end_user, Acknowledged(self.link.me, len(self.transcript.entries)))
            case Vote() as vote if vote.node == self.link.sender:
                self.count(vote)
            case StandBy(blocks) if self.link.sender == self.term.end_user:
                self.make_ready(blocks)
            case None:
                super().take(message, received_bytes)

    def make_ready(self, blocks: Iterable[Block]) -> None:
        """Load what a standby has: its layers at once, the rest beside the work."""
        try:
            for block in blocks:
                if block not in self.stages:
                    self.stages[block] = self.load(block)
        except Unservable:  # its tensors are not here
            self.pass_on(self.term.end_user, StandsBy(self.link.me, False))
        else:
            self.is_prepared = self.prepare()

    def say_if_ready(self) -> None:
        if not self.is_prepared:
            return
        try:
            if not self.is_prepared():
                return
            able = True
        except Unservable:
            able = False
        self.is_prepared = None
        self.pass_on(self.term.end_user, StandsBy(self.link.me, able))

    def _wait_s(self, idle_timeout_s: float) -> float:
        usual_s = super()._wait_s(idle_timeout_s)
        looks = self.stands_by or self.campaign.stands or self.is_preparing
        return min(LOOK_S, usual_s) if looks else usual_s

    def nodes_lost(self, nodes: set[int]) -> None:
        if self.term.end_user in nodes - self.certain and self.unheard_s() <= FRESH_S:
            self.heard_to_the_end = self.term.end_user
        self.certain |= nodes
        if not self.stands_by:
            super().nodes_lost(nodes)
        elif self.term.end_user in nodes and self.may_be_passed_over():
            raise Lost(nodes)
        elif self.term.end_user in nodes and not self.campaign.stands:
            self.stand()

    def unheard_s(self) -> float:
        """How long this node has waited for the end user, in vain: not while it worked itself."""
        last_here = max(self.free_at, self.looked_at, self.heard_at)
        return self.silent_looks * LOOK_S + self.clock() - last_here

    def may_be_passed_over(self) -> bool:
        """Whether most nodes may have let the end user go on without this one, unheard, and all be gone."""
        if self.heard_to_the_end == self.heard_last:
            return False
        voters = frozenset(range(self.link.size)) - self.certain_when_heard - self.transcript.lost()
        gone = voters & {*(self.certain - self.certain_when_heard), self.heard_last}
        return len(voters) < FEWEST or 2 * len(gone) > len(voters)

    def _bears_silence(self, idle_timeout_s: float) -> bool:
        """Stand for end user where that one is silent, or gone."""
        was_preparing, now = self.is_preparing, self.clock()
        self.say_if_ready()
        away_s = now - self.looked_at - LOOK_S
        if away_s > LOOK_S:  # this process was stopped: that is nobody's silence
            self.heard_at = min(now, self.heard_at + away_s)
        self.looked_at = now
        self.silent_looks += 1
        silent_s = now - self.heard_at
        if not self.stands_by and not self.campaign.stands:
            waits = was_preparing and silent_s <= idle_timeout_s
            return waits or super()._bears_silence(idle_timeout_s)
        if self.link.orphaned:
            idle_timeout_s = min(idle_timeout_s, ALONE_S)
        missed = silent_s > self.silence_s or self.term.end_user in self.certain
        can_ask = not self.campaign.stands or self.campaign.is_due(now)
        if missed and can_ask and not self.may_be_passed_over():
            self.stand()
        return silent_s <= idle_timeout_s

    def alive_at(self, node: int) -> float:
        """When the node gave its last sign of life, or was asked for one."""
        return max(self.claimed_at, self.heard_of.get(node, 0.0))

    def stand(self) -> None:
        self.claimed_at = self.clock()
        if not self.campaign.is_open:
            self.voted.clear()
        voters = frozenset(range(self.link.size)) - self.certain - self.transcript.lost()
        self.obey_decided(self.campaign.again(self.term, voters, self.clock()))

    def count(self, vote: Vote) -> None:
        if vote.grants and not vote.trial:
            self.voted[vote.node] = vote.ran
            self.heard_of[vote.node] = self.clock()
        self.obey_decided(self.campaign.heard(vote, self.clock()))

    def obey_decided(self, decided: Term | None) -> None:
        """Obey the term that is decided, or the one that this node claims: it grants no other of that one."""
        stands = self.campaign.stands
        if decided:
            self.obey_term(decided)
            if decided.end_user == self.link.me:
                self.ended = Ended.TAKES_OVER
        elif stands and not stands.trial:
            self.obey_term(stands.wanted)
