"""The damage itself: it repeats, it changes something, and crashes and hangs are named."""

import faulthandler
import os
import random
import time

import pytest
from mutations import mutate


def test_damage_repeats_and_changes_something():
    good, tree = bytes(range(256)) * 4, {"a": [1, 2, {"b": "c"}], "d": 0.5}
    bad = [mutate.damaged(random.Random(seed), good) for seed in range(200)]
    assert bad == [mutate.damaged(random.Random(seed), good) for seed in range(200)]
    assert sum(each != good for each in bad) > 180
    swapped = [mutate.swapped(random.Random(seed), tree) for seed in range(200)]
    assert sum(repr(each) != repr(tree) for each in swapped) > 150
    assert tree == {"a": [1, 2, {"b": "c"}], "d": 0.5}


def test_what_crashes_hangs_or_raises_is_named(monkeypatch, capfd):
    monkeypatch.setattr(mutate, "EACH_S", 0.3)

    def one(number):
        if number == 3:
            faulthandler.disable()  # which would write on standard error
            os.abort()
        if number == 5:
            time.sleep(60)
        assert number != 7, "seven"

    with pytest.raises(
        AssertionError, match=r"(?s)3 of 10 .*3: ended with .*5: no outcome in time.*7: .*seven"
    ):
        mutate.survives(range(10), one)
    mutate.survives([0, 1, 2, 4], one)
