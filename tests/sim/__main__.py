"""`python -m tests.sim SEED`: one story, told; `python -m tests.sim FIRST END`: many."""

import sys

from . import draw, more_of, play, reduced, tell_many

first, *end = map(int, sys.argv[1:])
if end:
    print(*tell_many(range(first, end[0])), sep="\n")
    sys.exit()
story = more_of(draw(first))
print(story)
outcome = play(story)
print(*outcome.heard.signs, *outcome.heard.routes, *outcome.heard.changes, sep="\n")
gap = f"{outcome.seconds:.2f} s, longest gap {max(outcome.gaps):.2f} s"
print(outcome.ended, len(outcome.tokens), "tokens,", gap)
if test := reduced(first):
    sys.exit(test)
