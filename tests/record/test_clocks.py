"""Clocks of several nodes are put on one."""

import numpy as np
import pytest
from running import (
    mpirun,
    words_for,
)

from jarvis_mpi.record.reader import load


def test_moments_of_two_nodes_are_put_on_one_clock(tmp_path):
    """Node 1's clock is ahead by 500 s and gains 0.1 ms a second; the trips tell that to 0.2 ms."""
    from jarvis_mpi.protocol.events import Token
    from jarvis_mpi.protocol.wire import Kind, Message, StageRun
    from jarvis_mpi.record.writer import Record

    def theirs(at_s):
        return at_s * 1.0001 + 500

    record = Record(tmp_path / "run.h5", {"prompt": "", "hosts": {}}, 10.0, None)
    for step in range(200):
        now = 10.0 + step
        off = 0.005 if step % 3 else 0.0002  # every third trip was a quick one
        record.offset(now, 1, theirs(now) - now + 0.7 * off, off)
        piece = Message(
            Kind.STEP,
            step=step,
            start=step,
            rows=1,
            runs=(StageRun(1, range(3), 1, 0, 0.1, 0, 9, theirs(now + 0.3)),),
        )
        record.write(Token(0, step, step, 42, now + 0.5, 0.5, 0.1, (piece,)))
    record.close()
    run = load(tmp_path / "run.h5")
    at, within = run.on_one_clock(run.hops)
    assert np.abs(at - (np.arange(200) + 0.3)).max() < 0.0005
    assert (np.abs(at - (np.arange(200) + 0.3)) < within + 0.0001).all()


@pytest.mark.mpirun
def test_hops_of_a_real_run_follow_each_other_on_one_clock(small, tmp_path):
    log = tmp_path / "run.h5"
    assert mpirun(4, *words_for(small, log, "--ignore-eos")).returncode == 0
    run = load(log)
    at, within = run.on_one_clock(run.hops)
    assert not np.isnan(at).any()
    assert set(run.clocks["node"]) == {0, 1, 2, 3}
    for token in run.tokens:
        mine = run.hops["step"] == token["step"]
        begun, slack = at[mine], within[mine].max() * 2 + 1e-4
        assert (np.diff(begun) > -slack).all()
        assert begun[-1] <= token["at_s"] + slack
        assert begun[0] >= token["at_s"] - token["total_s"] - slack
        first, home = run.hops[mine][[0, -1]]
        assert first["node"] == home["node"] == 0
        # What the end user waited for is not its own work.
        assert first["at_s"] + first["compute_s"] + home["wait_s"] <= home["at_s"] + 1e-6
    assert (run.hops["memory_kib"] > 10_000).all()


def test_clocks_of_a_run_that_was_resumed_on_machines_that_were_booted(tmp_path):
    from jarvis_mpi.protocol.events import Token
    from jarvis_mpi.protocol.wire import Kind, Message, StageRun
    from jarvis_mpi.record.writer import Record

    def go_on(record, users_clock, others_clock, steps):
        for step in steps:
            now = users_clock + step - steps[0]
            record.offset(now, 1, others_clock - users_clock, 1e-4)
            begun = now + 0.3 + others_clock - users_clock
            runs = (
                StageRun(0, range(1), 1, 0, 0.1, 0, 0, now + 0.1),
                StageRun(1, range(3), 1, 0, 0.1, 0, 9, begun),
            )
            message = Message(Kind.STEP, step=step, start=step, rows=1, runs=runs)
            record.write(Token(0, step, step, 42, now + 0.5, 0.5, 0.1, (message,)))
        record.close()

    path = tmp_path / "run.h5"
    attributes = {"hosts": {"0": "a", "1": "b"}, "settings": {"prompt": "x"}}
    go_on(Record(path, attributes, 1000.0, None), 1000.0, 50.0, range(5))
    resumed = Record.resumed(
        path, {**attributes, "hosts": {"0": "a", "2": "c"}}, 20.0, None, load(path).length_s, 5
    )
    go_on(resumed, 20.0, 9000.0, range(5, 10))
    run = load(path)
    at, _ = run.on_one_clock(run.hops)
    assert at == pytest.approx(np.repeat(run.tokens["at_s"], 2) - np.tile([0.4, 0.2], 10), abs=1e-6)
    assert (np.diff(run.tokens["at_s"]) > 0).all()
    assert run.follows.tolist() == [step not in (0, 5) for step in range(10)]
    assert run.hosts == {"0": "a", "1": "b", "2": "c"}
