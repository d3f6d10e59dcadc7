"""Real mpirun over hosts of our own, each with a real sshd (hosts/hosts.py): hosts are lost, and the text goes on."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_mpirun import PROMPT, small, tokens_of, words_for  # noqa: F401 (a fixture)
from test_parts import bytes_folder  # noqa: F401 (a fixture)

sys.path.insert(0, str(Path(__file__).parent / "hosts"))
import hosts

ROOT = Path(__file__).parent.parent
COUNT = 3
LEAVES_S = 90.0  # launch.silence_s, and some


def why_not() -> str:
    if os.environ.get("JARVIS_TEST_HOSTS") != "1":
        return "JARVIS_TEST_HOSTS=1 is not set: these tests make network namespaces and start sshd in them"
    if not shutil.which("mpirun"):
        return "there is no mpirun on the PATH: make test"
    if not any(
        "jarvis_mpi-daemon" in path.read_text() for path in Path(sys.prefix).glob("etc/prte-mca-params.conf")
    ):
        return "mpirun does not know of daemons at home: python -m jarvis_mpi setup"
    return hosts.missing()


REASON = why_not()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON or "-")


@pytest.fixture(scope="module", autouse=True)
def everyone(tmp_path_factory):
    hosts.up(COUNT, tmp_path_factory.getbasetemp())
    yield
    hosts.down()


@pytest.fixture(autouse=True)
def well():
    """Every test starts with all hosts up, joined and empty."""
    asked = (hosts.STATE / "ssh_config").read_text()
    yield
    (hosts.STATE / "ssh_config").write_text(asked)
    for host in range(COUNT + 1):
        if not hosts.processes(host):
            hosts.boot(host)
        hosts.mend(host)


def start(*words: str, limit_s: int = 120) -> subprocess.Popen:
    plain = ["mpirun", "-hostfile", str(hosts.STATE / "hostfile"), "-n", str(COUNT + 1)]
    return subprocess.Popen(
        hosts.command(
            0, ["timeout", "-k", "5", str(limit_s), *plain, sys.executable, "-m", "jarvis_mpi", *words]
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )


def ended(run: subprocess.Popen) -> str:
    """What it said on standard error; nothing is left of it on any host."""
    said = run.communicate(timeout=150)[1].decode()
    end = time.monotonic() + LEAVES_S
    while busy := {host: found for host in hosts.hosts() if (found := hosts.busy(host))}:
        assert time.monotonic() < end, busy
        time.sleep(0.2)
    return said


def interrupt() -> None:
    """Ctrl-C."""
    for pid in hosts.processes(0):
        if Path(f"/proc/{pid}/comm").read_text().strip() == "prterun":
            os.kill(pid, signal.SIGINT)


def long_words(log: Path) -> list[str]:
    return [
        "--dtype",
        "float32",
        "--prompt",
        PROMPT,
        "--max-new-tokens",
        "96",
        "--ignore-eos",
        "--log",
        str(log),
    ]


@pytest.fixture(scope="module")
def whole(everyone, tmp_path_factory) -> list[int]:
    """The tokens of a run without a fault."""
    log = tmp_path_factory.mktemp("whole") / "run.h5"
    run = start(*long_words(log))
    said = ended(run)
    assert run.returncode == 0, said
    assert all(f"jv{host}" in said for host in range(COUNT + 1))
    return tokens_of(log)


@pytest.mark.parametrize("fault", ["killed", "powered off", "cut off for 4 s"])
def test_a_lost_host_is_a_lost_process_and_the_text_goes_on(whole, fault, tmp_path):
    run = start(*long_words(tmp_path / "run.h5"))
    run.stdout.read(30)  # the answer comes
    match fault:
        case "killed":
            hosts.kill(2)
        case "powered off":
            hosts.off(2)
        case _:
            hosts.cut(2)
            time.sleep(4)
            hosts.mend(2)
    said = ended(run)
    assert run.returncode == 0, said
    assert "layers 11-19 from the copy on node 1" in said
    assert tokens_of(tmp_path / "run.h5") == whole


@pytest.mark.parametrize(
    ("trouble", "sentence"),
    [
        ("down", "jv2 cannot be reached by ssh"),
        ("ssh refused", "Connection refused"),
        ("wrong key", "Permission denied"),
        ("unknown host key", "Host key verification failed"),
        ("its shell hangs", "its shell does not answer"),
    ],
)
def test_without_a_host_from_the_start_the_others_answer_and_say_so(
    small,  # noqa: F811
    trouble,
    sentence,
    tmp_path,
    monkeypatch,
):
    config = hosts.STATE / "ssh_config"
    more = {
        "ssh refused": "Port 2222",
        "wrong key": "PubkeyAuthentication no",
        "unknown host key": "UserKnownHostsFile /nowhere\n  StrictHostKeyChecking yes",
    }
    if trouble == "down":
        hosts.off(2)
    elif trouble == "its shell hangs":
        stand_in = tmp_path / "ssh"
        stand_in.write_text('#!/bin/sh\ncase "$*" in *" jv2 "*) exec sleep 100;; esac\nexec ssh "$@"\n')
        stand_in.chmod(0o755)
        monkeypatch.setenv("JARVIS_SSH", str(stand_in))
    else:
        with config.open("r+") as file:  # in place: it is mounted
            rest = file.read()
            file.seek(0)
            file.write(f"Host jv2\n  {more[trouble]}\n{rest}")
    begun = time.monotonic()
    run = start(*words_for(small, tmp_path / "run.h5"))
    said = ended(run)
    assert run.returncode == 0, said
    assert sentence in said, said
    assert "node 2 lost before the first token: it is done without" in said
    assert len(tokens_of(tmp_path / "run.h5")) == 8
    assert time.monotonic() - begun < 60


def test_ctrl_c_leaves_nothing_on_any_host(tmp_path):
    run = start("--prompt", PROMPT, "--max-new-tokens", "2000", "--log", str(tmp_path / "run.h5"))
    run.stdout.read(20)
    begun = time.monotonic()
    interrupt()
    said = ended(run)
    assert time.monotonic() - begun < 15
    assert run.returncode != 0
    assert "Traceback" not in said


def test_nothing_listens_beyond_loopback_but_mpi(tmp_path):
    """ssh -R brings the daemon's port to a host's loopback; what else listens is Open MPI's own traffic."""
    run = start(
        "--prompt", PROMPT, "--max-new-tokens", "400", "--ignore-eos", "--log", str(tmp_path / "run.h5")
    )
    run.stdout.read(20)
    for host in range(1, COUNT + 1):
        listening = subprocess.run(
            hosts.command(host, ["ss", "-Hlntp"]), capture_output=True, text=True
        ).stdout
        for line in listening.splitlines():
            address = line.split()[3]
            assert address.startswith(("127.0.0.1:", "[::1]:")) or '"sshd"' in line or '"python' in line, line
    interrupt()
    ended(run)
