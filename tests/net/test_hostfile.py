"""Hostfiles: what our reader says of one is what the real mpirun does with it.
Nothing is started: mpirun only tells."""

import os
import random
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.net import hostfile

MPIRUN = ["timeout", "-k", "5", "20", "mpirun", "--do-not-launch", "--display", "map"]
OWN = socket.gethostname().partition(".")[0]
RANDOM = int(os.environ.get("JARVIS_HOSTFILES") or 150)

# Only names of this machine's loopback, and some that nobody looks up.
TAKEN = [
    b"localhost slots=3\n",
    b"localhost slots = 3\n",
    b"localhost slots =3\n127.0.0.2 slots= 2",
    b"127.0.0.2 slots=2\nlocalhost slots=3\n",
    b"\t localhost\tslots=2 \f\v\n\n   \n127.0.0.3\tslots=1",
    b"# a comment\nlocalhost slots=2 # another\n// a third\n127.0.0.2 slots=1 // more\n",
    b"/* a long\n\n one */\nlocalhost slots=2 /* and */\n127.0.0.2 slots=1 /* to the end",
    b"/* Windows \r\n */localhost slots=2 # in comments alone\r\n",
    b"localhost max_slots=3\n127.0.0.2 max-slots=2 slots=1\n127.0.0.3 slots=1 max-cpu = 4\n",
    b"localhost cpu=2\n127.0.0.2 count=3\n",
    b"localhost\nlocalhost\nlocalhost\n",
    b"localhost\n127.0.0.1\n127.0.0.2 slots=1\n",
    b"localhost slots=2\n127.0.0.1\n",
    b"127.0.0.2 slots=2\n127.0.0.2\n",
    b"localhost slots=0\n127.0.0.2 slots=2\n",
    b"fd98::12 slots=1\n::1 slots=2\nlocalhost slots=1\n",
    b"me@127.0.0.2 slots=2\n127.0.0.3 slots=1 username=you\nyou@localhost slots=1\n",
    b"127.0.0.2 slots=1 username you\n127.0.0.3 slots=2\n",
    b"pi1.home slots=1\npi2.home slots=2\nme@pi3.home.arpa slots=1\n",
    b"pi1.home slots=1\npi1.work\n",
    b"a slots=1\nA slots=1\n",
    b"10 slots=1\n010 \n",
    b"1.2 slots=1\n1.3 slots=1\n",
    b"127.0.0.2 slots=2 foo 12 bar\n",
    b"^me@127.0.0.2 slots=2\n",
    b"me@ slots=1\n@you slots=1\n",
    b"slotsy slots=1\nranks slots=1\nslots-maximum slots=2\n",
    b"127.0.0.2 slots=00002\n",
]
REFUSED = [
    (b"localhost slots=2\r\n127.0.0.2 slots=2\r\n",
     r"line 1: '\\r' cannot stand there: Windows ends its lines so, mpirun stops with a parse error: "
     r"sed -i 's/\\r\$//' "),
    (b"# a comment\r\n\r\nlocalhost slots=2\r\n", r"line 2: '\\r' cannot"),
    (b"\xef\xbb\xbflocalhost slots=2\n",
     "begins with a byte order mark, and mpirun stops with a parse error: sed"),
    ("localhost slots=2\n".encode("utf-16"), "line 1: .* cannot stand there"),
    ("örtchen slots=2\n".encode(), "line 1"),
    (b"localhost slots=2\n[::1] slots=2\n",
     r"line 2: '\[' cannot stand there: mpirun takes an IPv6 address only without brackets"),
    (b"localhost slots=2\n^127.0.0.2\n", "line 2: .* leaves out no host: delete the line"),
    (b"+n0 slots=1\nlocalhost slots=2\n", r"line 1: \+n0 counts hosts of an allocation, and there is none"),
    (b"localhost slots=1\n+e:2\n", r"line 2: \+e:2"),
    (b"localhost slots=2\n# the end", "line 2: '#' cannot stand there: .* end the file with one"),
    (b"localhost slots=2 // the end", "line 1: '/'"),
    (b'"localhost" slots=2\n', "line 1: .* no quotes"),
    (b"localhost slots=-1\n", "line 1: localhost has slots=-1, which is no number"),
    (b"localhost slots=two\n", "localhost has slots=two, which is no number"),
    (b"localhost slots=1.5\n", "localhost has slots=1.5, which is no number"),
    (b"localhost slots=\n127.0.0.2 slots=2\n", "line 1: localhost has slots=, which is no number"),
    (b"localhost slots 2\n", "localhost has slots=, which is no number"),
    (b"localhost slots", "localhost has slots=, which is no number"),
    (b"localhost slots=2 slots=2\n", "slots told twice"),
    (b"localhost slots=2\n\n127.0.0.1 slots=2\n",
     "line 3: localhost has its slots told twice, which mpirun refuses: name it once"),
    (b"pi1.home slots=1\npi1.work slots=1\n", "line 2: pi1.home has its slots told twice"),
    (b"localhost slots=4 max-slots=3\n", "line 1: localhost has max-slots=3, less than its 4 slots"),
    (b"localhost slots=2\nslots=2\n", "line 2: 'slots'"),
    (b"localhost slots=2\n127.0.0.2 cores=2\n", "line 2: 'cores'"),
    (b"localhost slots=2 foo.bar\n", "line 1: 'foo.bar'"),
    (b"localhost slots=1 /* one */ slots=1\n", "line 1: 'slots'"),
    (b"localhost slots=2\nme@you@pi1 slots=1\n", "line 2: me@you@pi1 is no host, and mpirun crashes on it"),
    (b"127.0.0.2 username\n127.0.0.3 slots=2\n", "line 2: '127.0.0.3' cannot stand there"),
    (b"@ slots=2\n", "line 1: @ is no host"),
    (b"", "names 0 slots: an end user and a worker need two"),
    (b"# nothing\n", "names 0 slots"),
]  # fmt: skip
# What mpirun takes, and we do not: what comes of it is not what is written there.
REFUSED_HERE = [
    (b"localhost\n127.0.0.2 slots=1\n", "line 1: localhost has no slots, and mpirun would take its cores"),
    (b"rank 0=localhost\nrank 1=127.0.0.2\n", "line 1: this is a rankfile"),
    (b"127.0.0.2 slots=2 port=2222\n", "line 1: a port cannot be said here: write it into ~/.ssh/config"),
    (b"localhost slots=1\n-v slots=1\n", "line 2: -v would be an option to ssh, not a host"),
    (b"localhost slots=1\n-l@pi1 slots=1\n", "line 2: -l@pi1 would be an option to ssh"),
    (b"127.0.0.2 slots=2 username=-v\n", "username=-v would be an option to ssh"),
    (b"localhost slots=1\n", "names 1 slots: an end user and a worker need two"),
]


def ours(path: Path) -> list[tuple[str, int]] | str:
    """Host and slots, as mpirun names them; or why not."""
    try:
        counted: dict[str, int] = {}
        for host in hostfile.ranks(path):
            name = hostfile.unqualified(host.rpartition("@")[2])
            name = OWN if name in hostfile.names_here() else name
            counted[name] = counted.get(name, 0) + 1
        return list(counted.items())
    except Unservable as error:
        return str(error)


def mpiruns(path: Path) -> list[tuple[str, int]] | None:
    """The same by mpirun, in its order; None where it complains."""
    words = [*MPIRUN, "--hostfile", str(path), "none"]
    done = subprocess.run(words, capture_output=True, timeout=30, stdin=subprocess.DEVNULL)
    output = (done.stdout + done.stderr).decode(errors="replace")
    if done.returncode or "parse error" in output:
        return None
    mapped = re.findall(r"Data for node: (\S+)\t.*?Num slots: (\d+)\t", output, re.DOTALL)
    return [(name, int(slots)) for name, slots in mapped if int(slots)]


@pytest.mark.mpirun
@pytest.mark.parametrize("data", TAKEN)
def test_what_mpirun_takes_gives_the_same_ranks_here(tmp_path, data):
    (tmp_path / "hosts").write_bytes(data)
    assert ours(tmp_path / "hosts") == mpiruns(tmp_path / "hosts")


@pytest.mark.mpirun
@pytest.mark.parametrize(("data", "sentence"), REFUSED)
def test_what_mpirun_refuses_is_one_sentence_here(tmp_path, data, sentence):
    (tmp_path / "hosts").write_bytes(data)
    error = ours(tmp_path / "hosts")
    assert isinstance(error, str)
    assert error.startswith(f"--hostfile {tmp_path / 'hosts'}")
    assert "\n" not in error
    assert re.search(sentence, error), error
    assert mpiruns(tmp_path / "hosts") in (None, [])


@pytest.mark.parametrize(("data", "sentence"), REFUSED_HERE)
def test_what_would_mean_something_else_is_refused_here_alone(tmp_path, data, sentence):
    (tmp_path / "hosts").write_bytes(data)
    assert sentence in ours(tmp_path / "hosts")


def drawn(draw: random.Random) -> bytes:
    """A hostfile of a few lines, most of them good."""

    def line() -> str:
        host = draw.choice(("localhost", "127.0.0.1", "127.0.0.2", "127.0.0.2", "127.0.0.3", "me@127.0.0.4",
                            "pi1", "pi1.home",
                            "pi2.work", "::1", "fd98::12", "9", "a_b-c", OWN))  # fmt: skip
        space, end = draw.choice(("", " ", "\t")), draw.choice(("\n", "\n", "\n", " \n", "\n\n", ""))
        more = [f"{draw.choice(('slots', 'slots', 'slots', 'cpu'))}{space}={space}{draw.randrange(4)}"]
        more += draw.sample(
            ("max_slots=4", "max-slots=1", "foo", "# x", "// x", "/* x */", "/* x\n x */ slots=1",
             "username=me", "slots=2", "7",
             "\r", "foo.bar", "=", '"x"', "-1", "slots", "\f", "*", "rank", "[::1]", "é"),
            draw.choice((0, 0, 0, 0, 0, 1, 1, 2)))  # fmt: skip
        return " ".join([host, *more][: 1 if draw.random() < 0.15 else None]) + end

    return "".join(line() for _ in range(draw.randrange(1, 5))).encode("latin-1")


@pytest.mark.mpirun
def test_drawn_hostfiles_are_read_as_mpirun_reads_them(tmp_path):
    path, taken = tmp_path / "hosts", 0
    for seed in range(RANDOM):
        path.write_bytes(drawn(random.Random(seed)))
        mine, expected = ours(path), mpiruns(path)
        here_alone = isinstance(mine, str) and re.search("has no slots|names [01] slots", mine)
        assert here_alone or mine == expected or (isinstance(mine, str) and expected is None), (
            seed,
            path.read_bytes(),
            mine,
            expected,
        )
        taken += isinstance(mine, list)
    assert taken > RANDOM / 8  # both kinds were met
    assert taken < RANDOM * 4 / 5


def test_a_file_that_is_no_hostfile_is_one_sentence(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b"#" * (1 << 21))
    (tmp_path / "many").write_text("localhost slots=99999999999\n")
    for path, sentence in (
        (tmp_path / "none", "cannot be read: No such file or directory"),
        (tmp_path, "is no file: mpirun reads a hostfile twice"),
        (tmp_path / "pipe", "is no file"),
        (Path("/dev/zero"), "is no file"),
        (tmp_path / "large", "is larger than 1 MiB"),
        (tmp_path / "many", "names 1000000000 slots: no more than 65536 ranks can run"),
    ):
        assert sentence in ours(path)


@pytest.mark.mpirun
def test_the_doctor_says_what_mpirun_will_do_with_a_file_from_windows(tmp_path):
    (tmp_path / "hosts").write_bytes(b"localhost slots=2\r\n")
    for command in ("doctor", "stage-model"):
        words = [sys.executable, "-m", "jarvis_mpi", command, "--hostfile", str(tmp_path / "hosts")]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, cwd=ROOT)
        assert done.returncode
        assert len(done.stderr.splitlines()) == 1
        assert "mpirun stops with a parse error: sed -i 's/\\r$//' " in done.stderr


def test_jobs_count_ranks_by_the_same_reader(tmp_path):
    (tmp_path / "hosts").write_text("localhost slots = 2 # mine\n127.0.0.2 cpu=3\n")
    words = [sys.executable, "-m", "jarvis_mpi.net.hostfile"]
    done = subprocess.run([*words, tmp_path / "hosts"], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert (done.stdout, done.returncode) == ("5\n", 0)
    done = subprocess.run([*words, tmp_path], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    for job in (ROOT / "jobs").iterdir():
        assert not re.search(r"(awk|sed|wc|grep|cut)[^|]*HOSTFILE\" *\)", job.read_text()), job
