"""A step that has returned, turned into tokens: one, and one more for each of its drafts that was right."""

from ..common.errors import concerns
from .events import Token
from .request import Request, Step
from .services import Services


def accept_tokens(services: Services, request: Request, step: Step) -> tuple[list[Token], bool]:
    """Choose the tokens that follow the request's text, and add them to it.
    -> them, and whether the answer has ended."""
    clock = services.clock
    home_at, asked = clock(), len(step.drafts) + 1
    tokens: list[Token] = []
    ended = False
    with concerns(request.sequence):
        rows = services.head.rows_logits(step.returned[-1].body, -asked, None)
    for row, logits in enumerate(rows):
        with concerns(request.sequence):
            token = services.choose(logits, request.ids, request.sequence)
        now = clock()
        tokens.append(Token(
            request.sequence, step.number, len(request.ids), token, now, now - request.chosen_at,
            step.embed_s + now - home_at if row == 0 else now - request.chosen_at,
            tuple(step.returned) if row == 0 else (),
        ))  # fmt: skip
        request.chosen_at = now
        request.ids.append(token)
        request.tokens_left -= 1
        ended = token in request.end_ids or not request.tokens_left
        if ended or row == len(step.drafts) or token != step.drafts[row]:
            break
    request.ran = len(request.ids) - 1
    if step.drafts:
        request.progress.crop(request.ran)
    services.drafts.observe(request.sequence, asked - 1, len(tokens) - 1, home_at - step.sent_at)
    request.step = None
    return tokens, ended
