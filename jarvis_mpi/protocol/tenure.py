"""The end user's part in who is the end user: it shows what its standby has, goes on without a standby that
is lost if most nodes let it, and stops where another node is the end user."""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from ..common.errors import Unservable
from ..common.layers import Block
from .campaign import AGAIN_S, Campaign
from .cluster import Cluster
from .doubt import AWAY_S, Doubt
from .election import NOBODY, Term
from .events import Token
from .link import Link
from .next_standby import NextStandby
from .node_state import GONE, Sign, State
from .notes import Acknowledged, Claim, Entries, Sendable, Vote
from .transcript import Entry, Replication, Transcript
from .wire import Beat

Clock = Callable[[], float]


class Deposed(Unservable):
    """Another node is the end user: this one stops, and says nothing to the others."""

    def __init__(self, term: Term):
        self.term = term
        super().__init__(
            f"node {term.end_user} is the end user now: this node was silent, or cut off; "
            "python -m jarvis_mpi attach shows the text there"
        )


class Tenure:
    """Of `me`, in `term`. `voters`: all nodes of the run."""

    def __init__(
        self, me: int, term: Term, voters: Iterable[int], send: Callable[[int, Sendable], None], clock: Clock
    ):
        self.me, self.term, self.send, self.clock = me, term, send, clock
        self.voters = frozenset(voters)
        self.campaign, self.sent_at = Campaign(me, send), 0.0
        self.replication = Replication(self._send_entries, term.standby)
        self.next_standby = NextStandby(self.replication, send, clock, {term.standby})
        self.standby_given_up = self.is_over = False
        self.doubt = Doubt(clock)
        self.silent = set[int]()  # nodes that have been silent since: they may have let another take over
        self.lost = set[int]()  # nodes whose processes are certain to be gone
        self.held: deque[tuple[int, Token]] = deque()  # entries that the standby must have first, the token

    def _send_entries(self, standby: int, first: int, entries: list[Entry]) -> None:
        self.sent_at = self.clock()
        self.send(standby, Entries(first, entries))

    def begin(self, run: str, missing: Mapping[int, Sign]) -> None:
        """Have the standby know what the run is, and which nodes are missing from its start."""
        self.replication.add("run", run)
        for node, sign in missing.items():
            self.sign_seen(node, sign)
        self.replication.flush()

    def go_on_from(self, transcript: Transcript, step: int) -> None:
        """This node has taken over, and the next one is to know all that it knows itself."""
        self.replication.go_on_from(transcript)
        self.replication.add("reign", self.me, step)

    # -- what is shown

    def hold(self, tokens: Iterable[Token]) -> None:
        """Have the standby know these tokens, before they are shown."""
        for token in tokens:
            count = self.replication.add("token", token.sequence, token.step, token.position, token.id)
            self.held.append((count, token))
        self.replication.flush()

    def can_show(self, looked_at: float) -> bool:
        """Whether the standby knows a token. `looked_at`: when this node last had heard all that had arrived;
        if that is long ago, it may have been stopped, and another one be the end user."""
        fresh = self.clock() - looked_at < AWAY_S
        return fresh and bool(self.held) and self.replication.has(self.held[0][0])

    def shown(self, looked_at: float) -> Iterator[Token]:
        """Yield the tokens that can be shown, each once."""
        while self.can_show(looked_at):
            yield self.held.popleft()[1]

    def withdraw(self, sequence: int) -> None:
        """No more is wanted of that answer."""
        left = deque(each for each in self.held if each[1].sequence != sequence)
        if count := len(self.held) - len(left):
            self.replication.add("cut", sequence, count)
        self.held = left

    # -- who is the end user

    def is_unsure(self, cluster: Cluster, unheard: Collection[int]) -> bool:
        """Whether it is to be seen who is the end user, or who can be heard: nothing is decided meanwhile."""
        if not (unheard or self.silent or self.campaign.stands):
            return False  # as for nearly every message of a run
        silent = {node for node in unheard if cluster.state(node) is not State.LOST}
        quiet = self.voters & (silent | self.silent)
        cut_off = self.doubt.is_cut_off(len(quiet), len(self.voters), self.term.standby in quiet)
        return cut_off or self.campaign.stands is not None

    def beat(self, link: Link) -> None:
        """Show the standby that this node lives. From any thread."""
        if (standby := self.term.standby) != NOBODY:
            link.beat(standby, Beat(self.me, 0.0, False, {}).pack())

    def note_came(self, note: Claim | Vote | Acknowledged) -> None:
        """Raises Deposed where another node is the end user."""
        match note:
            case Acknowledged(node, count):
                self.replication.acknowledge(node, count)
                if node == self.term.standby:
                    self.campaign.withdraw()
                elif node == self.replication.to and self.replication.has_caught_up():
                    self._announce(node)
            case Claim(node, term, trial) if trial or not self.term.grants(term):  # it lives, and shows it
                self.send(node, Vote(self.me, term.number, trial, False, self.term, []))
            case Claim(node, term):
                self.send(node, Vote(self.me, term.number, False, True, term, []))
                raise self._deposed(term)
            case Vote(term=term) if term.number > self.term.number and term.end_user != self.me:
                raise self._deposed(term)
            case Vote():
                self._decided(self.campaign.heard(note, self.clock()))

    def copy_loaded(self, node: int, block: Block) -> None:
        self.replication.add("copy", node, block.start, block.stop)

    def sign_seen(self, node: int, sign: Sign) -> None:
        """Go on without a standby that is lost: at once if that is certain and it was not silent before, else
        if most nodes let it. Another one makes ready then, or the same one once it is back (NextStandby)."""
        self.replication.add("sign", node, sign.value)
        self.replication.flush()
        if sign in (Sign.SILENT, Sign.STUCK):
            self.silent.add(node)
        elif sign is Sign.BACK:
            self.silent.discard(node)
        elif sign is Sign.LOST:
            self.lost.add(node)
        if sign is Sign.LOST and (node not in self.silent or self.term.standby == NOBODY):
            self.voters -= {node}
        if node != self.term.standby:
            self.next_standby.sign_seen(node, sign)
        elif sign is Sign.BACK:
            self.campaign.withdraw()
        elif sign is Sign.LOST and node not in self.silent:
            self._announce(NOBODY)
        elif sign is Sign.LOST or sign in GONE:
            self.standby_given_up = sign in (Sign.GIVEN_UP, Sign.LOST)
            self._decided(self.campaign.again(self.term, self.voters, self.clock()))

    def _announce(self, standby: int) -> None:
        """Tell all that a term has begun, with this standby, in which this node is the end user as before."""
        self._decided(self.term._replace(number=self.term.number + 1, standby=standby))
        for other in sorted(self.voters - {self.me}):
            self.send(other, Claim(self.me, self.term, False))

    def _deposed(self, term: Term) -> Deposed:
        self.is_over = True
        return Deposed(term)

    def look(self) -> None:
        """Ask again where too few have answered, and send again what the standby has not acknowledged.
        Raises Unservable where that cannot be waited for."""
        if self.clock() - self.sent_at > AGAIN_S:
            self.replication.send_again()
        if self.campaign.is_due(self.clock()):
            if self.standby_given_up:
                raise Unservable(
                    f"node {self.term.standby}, the standby, was silent for too long, and may have gone on: "
                    "too few others answer to let this node go on without it"
                )
            self._decided(self.campaign.again(self.term, self.voters, self.clock()))

    def _decided(self, term: Term | None) -> None:
        if term and term.end_user != self.me:
            raise self._deposed(term)
        if term:
            self.term, self.voters = term, self.voters - self.lost
            if term.standby == NOBODY:
                self.replication.begin(NOBODY)
