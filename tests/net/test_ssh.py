"""What is given to ssh: a host is never an option, and an ssh that cannot be started is a line of that
host."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

from jarvis_mpi.common import variables
from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.net import launch_agents
from jarvis_mpi.testbed import on_host

pytestmark = pytest.mark.slow


@pytest.fixture
def as_ssh(tmp_path, monkeypatch) -> Path:
    """A command in ssh's place that leaves its words."""
    command = tmp_path / "ssh"
    command.write_text(
        f"#!{sys.executable}\nimport json, sys, pathlib\n"
        f"pathlib.Path({str(tmp_path / 'words')!r}).write_text(json.dumps(sys.argv[1:]))\n"
    )
    command.chmod(0o755)
    monkeypatch.setenv("JARVIS_SSH", str(command))
    return tmp_path / "words"


HOSTILE = "-oProxyCommand=touch x"


def test_a_host_is_never_an_option_to_ssh(as_ssh):
    on_host.start(HOSTILE, "probe", "x").communicate(timeout=30)
    words = json.loads(as_ssh.read_text())
    assert words[words.index("--") + 1] == HOSTILE
    as_ssh.unlink()
    status, phase, _ = launch_agents.over_ssh(HOSTILE, ["true"], os.getppid())
    words = json.loads(as_ssh.read_text())
    assert words[words.index("--") + 1] == HOSTILE
    assert (status, phase) == (255, launch_agents.StartPhase.NOT_STARTED)


@pytest.mark.skipif(not shutil.which("ssh"), reason="there is no ssh")
def test_the_real_ssh_takes_the_host_behind_two_dashes_as_one(tmp_path, monkeypatch):
    monkeypatch.setenv("JARVIS_SSH", "ssh -F none")
    monkeypatch.chdir(tmp_path)
    _, errors = on_host.start(HOSTILE, "probe", "x").communicate(timeout=30)
    assert not (tmp_path / "x").exists()
    assert errors


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["-oProxyCommand=x", "prted"], "-oProxyCommand=x would be an option to ssh"),
        (["-x", "-v", "prted"], "-v would be an option to ssh"),
        (["pi1", "-p", "2222", "prted"], "pi1 has a port in the hostfile: write it into ~/.ssh/config"),
    ],
)
def test_mpiruns_agent_starts_nothing_for_such_a_host(words, sentence, monkeypatch, tmp_path):
    code = (
        f"import sys; sys.argv = ['jarvis-mpi-daemon', *{words}]; from jarvis_mpi.net.launch_agents import "
        "daemon; daemon()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, cwd=ROOT)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1


NO_SSH = [
    ("nosuchssh", "far cannot be reached by ssh: nosuchssh: No such file or directory"),
    ("/", "far cannot be reached by ssh: /: Permission denied"),
    ("ssh -p '22", 'the variable JARVIS_SSH is "ssh -p \'22", which is no command (No closing quotation)'),
]


@pytest.mark.parametrize(("command", "sentence"), NO_SSH)
def test_an_ssh_that_cannot_be_started_is_that_hosts_line(command, sentence, monkeypatch):
    monkeypatch.setenv("JARVIS_SSH", command)
    with pytest.raises(Unservable) as raised:
        on_host.start("far", "probe", "x")
    assert sentence in str(raised.value)
    status, phase, ssh_output = launch_agents.over_ssh("far", ["true"], os.getppid())
    assert (status, phase) == (255, launch_agents.StartPhase.NOT_STARTED)
    assert sentence.removeprefix("far cannot be reached by ssh: ") in ssh_output


def test_an_empty_command_in_sshs_place_is_ssh(monkeypatch):
    monkeypatch.setenv("JARVIS_SSH", " ")
    assert variables.ssh() == ["ssh"]


@pytest.mark.parametrize(
    "setting", ["PMIX_RANK=", "PMI_RANK=one", "SLURM_PROCID=-1", "PMIX_RANK=99999999999",
                "JARVIS_SSH_KEEPALIVE=nan",
             "OMPI_COMM_WORLD_LOCAL_RANK=1.5"]
)  # fmt: skip
def test_a_launchers_variable_that_is_no_number_is_named(setting):
    name, _, value = setting.partition("=")
    done = subprocess.run(
        [sys.executable, "-m", "jarvis_mpi", "--prompt", "x"],
        cwd=ROOT, env={**os.environ, name: value}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode
    assert re.fullmatch(
        rf"the variable {name} is '{value}', which is no number.*: unset {name}\n", done.stderr
    )
