"""JARVIS_DEBUG: a line for each message and event, by which a step is followed through all ranks."""

import logging
import os
import queue
import re
import sys

import pytest
from loopback import Loopback
from running import mpirun, sentence, words_for

from jarvis_mpi.common import variables
from jarvis_mpi.net import launch_agents
from jarvis_mpi.net.logged_link import logged
from jarvis_mpi.protocol.cluster import Hop
from jarvis_mpi.protocol.notes import Pong
from jarvis_mpi.protocol.wire import Beat, Kind, Message, StageRun

RUN = StageRun(1, range(1, 3), 1, 0.0, 0.1, 0.0, 100)


def lines(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_a_line_names_kind_ends_and_step(caplog):
    caplog.set_level(logging.DEBUG, "jarvis_mpi.net")
    queues = [queue.Queue(), queue.Queue()]
    end_user, worker = (logged(Loopback(node, queues)) for node in range(2))
    step = Message(Kind.STEP, 2, 7, 5, 9, 1, ahead=(Hop(1, range(1, 3)),), body=b"abcd")
    end_user.send(1, step.pack())
    assert worker.receive(1.0) == step.pack()
    home = Message(Kind.STEP, 2, 7, 5, 9, 1, runs=(RUN,), body=b"abcd")
    worker.send(0, home.pack())
    worker.beat(0, Beat(1, 0.25, False, {}).pack())
    worker.send(0, Pong(1, 0.5, 3.0).pack())
    worker.send(0, b"another version's")
    for _ in range(4):
        end_user.receive(1.0)
    fields = "sequence=2 step=5 epoch=7 start=9 rows=1"
    out, back = len(step.pack()), len(home.pack())
    assert lines(caplog) == [
        f"send STEP 0>1 {fields} bytes={out}",
        f"recv STEP 0>1 {fields} bytes={out}",
        f"send STEP 1>0 {fields} bytes={back}",
        f"send NOTE 1>0 note=node,pong,clock_s bytes={len(Pong(1, 0.5, 3.0).pack())}",
        "send unreadable >0 bytes=17 (a message of 17 bytes is shorter than its header of 38)",
        f"recv STEP 1>0 {fields} bytes={back}",
        f"recv BEAT 1>0 busy_s=0.250 sending=False bytes={len(Beat(1, 0.25, False, {}).pack())}",
        f"recv NOTE 1>0 note=node,pong,clock_s bytes={len(Pong(1, 0.5, 3.0).pack())}",
        "recv unreadable >0 bytes=17 (a message of 17 bytes is shorter than its header of 38)",
    ]
    assert (worker.me, end_user.size, worker.sending()) == (1, 2, False)


def test_other_hosts_get_the_variable(monkeypatch):
    started: list[dict[str, str]] = []
    monkeypatch.setattr(sys, "argv", ["/nowhere/bin/jarvis_mpi-daemon", "far", "true"])
    monkeypatch.setattr(os, "execve", lambda path, words, environment: started.append(environment))
    monkeypatch.setattr(os, "setpgrp", lambda: None)
    monkeypatch.setenv(variables.DEBUG, "net")
    monkeypatch.setenv("JARVIS_OTHER", "net")
    launch_agents.daemon()
    assert started[0][variables.DEBUG] == "net"
    assert "JARVIS_OTHER" not in started[0]
    assert not launch_agents.OURS.fullmatch(variables.DEBUG)  # so that `remote` passes it on


@pytest.mark.parametrize("text", ["nets", "net;protocol", "model,net", "1"])
def test_an_unknown_wing_is_one_sentence(monkeypatch, text):
    monkeypatch.setenv(variables.DEBUG, text)
    with pytest.raises(variables.Wrong) as error:
        variables.debugged_wings()
    assert str(error.value) == (
        f"the variable JARVIS_DEBUG is '{text}', which is no list of net and protocol: unset JARVIS_DEBUG"
    )


@pytest.mark.mpirun
def test_a_step_is_followed_through_all_ranks(small, tmp_path, monkeypatch):
    monkeypatch.setenv(variables.DEBUG, "protocol, net")
    done = mpirun(4, *words_for(small, tmp_path / "run.h5", "--fault", "kill 2 @ 3"))
    errors = done.stderr.decode()
    assert done.returncode == 0, errors
    form = re.compile(
        r"\d\d:\d\d:\d\d\.\d{3} jarvis_mpi\.net: (send|recv) STEP (\d)>(\d) sequence=0 step=(\d+) .*bytes=\d+"
    )
    found = [match.groups() for line in errors.splitlines() if (match := form.fullmatch(line))]
    way = [("0", "1"), ("1", "2"), ("2", "3"), ("3", "0")]
    for direction in ("send", "recv"):
        hops = [(sender, to) for how, sender, to, step in found if (how, step) == (direction, "2")]
        assert sorted(hops) == way, errors
    events = [line.partition(" jarvis_mpi.protocol: ")[2] for line in errors.splitlines()]
    assert any(event.startswith("route ") and event.endswith(" step=0 epoch=1") for event in events), errors
    assert "sign LOST node=2 step=3" in events
    assert any(event.startswith("change node 2 lost at step 3") for event in events), errors


@pytest.mark.mpirun
def test_a_wrong_variable_is_refused_once(small, tmp_path, monkeypatch):
    monkeypatch.setenv(variables.DEBUG, "wires")
    assert "JARVIS_DEBUG is 'wires'" in sentence(mpirun(3, *words_for(small, tmp_path / "run.h5")))
