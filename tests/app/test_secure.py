"""--secure over the real mpirun, on one machine: the same text, or one sentence."""

import os
import subprocess
import sys

import pytest
from places import ROOT
from running import (
    MARK,
    assert_nothing_is_left,
    left_behind,
    mpirun,
    processes,
    sentence,
    tokens_of,
    words_for,
)

from jarvis_mpi.net import run_key
from jarvis_mpi.net.launcher_loss import mapped

pytestmark = pytest.mark.mpirun


def test_a_sealed_run_has_the_same_text_and_leaves_nothing(small, tmp_path):
    before, texts = left_behind(), []
    for secure in ("on", "off"):
        log = tmp_path / f"{secure}.h5"
        done = mpirun(3, *words_for(small, log, "--secure", secure, "--fault", "kill 2 @ 3"))
        assert done.returncode == 0, done.stderr
        assert b"node 2 lost" in done.stderr
        assert b"dropped" not in done.stderr
        texts.append((done.stdout, tokens_of(log)))
    assert texts[0] == texts[1]
    assert_nothing_is_left()
    assert left_behind() <= before


def test_a_key_that_cannot_be_had_is_one_sentence(small, tmp_path):
    """As where the launcher has put ranks on two hosts, and hands out none."""
    two_hosts = ("env", "-u", "OMPI_COMM_WORLD_LOCAL_SIZE", "SLURM_STEP_NUM_NODES=2")
    asked = words_for(small, tmp_path / "run.h5", "--secure", "on")
    assert sentence(mpirun(2, *asked, before=two_hosts)).startswith(
        "--secure on cannot be had: this launcher hands no key to ranks on several hosts"
    )
    done = mpirun(2, *words_for(small, tmp_path / "run.h5"), before=two_hosts)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(b"messages between hosts travel in the clear") == 1


SQUATTER = """
import os, socket, sys
for node in range(3):
    taken = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    taken.bind(f"\\0jarvis_mpi/prterun-{socket.gethostname()}-{os.getpid()}@1/{node}")
    os.set_inheritable(taken.detach(), True)
os.execvp(sys.argv[1], sys.argv[1:])
"""
NOBODY = 65534


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user, too")
@pytest.mark.very_slow
def test_another_account_reads_nothing_of_a_run_and_cannot_take_its_names(small, tmp_path):
    """The names that are taken were the doorbells' own: anybody could guess them."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    asked = words_for(small, tmp_path / "run.h5", "--secure", "on", "--pace-s", "0.1", "--ignore-eos")
    command = ["timeout", "-k", "5", "150", sys.executable, "-c", SQUATTER, "mpirun", "-hostfile"]
    command += ["hostfiles/local", "-n", "3", sys.executable, "-m", "jarvis_mpi", *asked]
    run = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "JARVIS_TEST": MARK, "TMPDIR": str(folder)},
    )  # fmt: skip
    shown = os.read(run.stdout.fileno(), 1)  # the answer comes
    pids = [pid for rank in range(3) for pid in processes(rank=rank)]
    (own,) = folder.glob("ompi.*")
    segments = {path for pid in pids for path in mapped(r"sm_segment.*", pid)}
    assert {path.name for path in own.glob("bell.*")} == {"bell.0", "bell.1", "bell.2"}
    assert not (own / run_key.FILE).exists()  # every rank has read it
    assert own.stat().st_mode & 0o777 == 0o700
    for path in [*(f"/proc/{pid}/environ" for pid in pids), *(f"/proc/{pid}/mem" for pid in pids), *segments]:
        read = subprocess.run(["head", "-c", "1", path], user=NOBODY, capture_output=True, timeout=30)
        assert b"Permission denied" in read.stderr, path
    more, errors = run.communicate(timeout=100)
    assert (run.returncode, bool(shown + more)) == (0, True), errors
    assert len(tokens_of(tmp_path / "run.h5")) == 8
    assert_nothing_is_left()
    assert not [*folder.glob("ompi.*")]


@pytest.mark.very_slow
@pytest.mark.parametrize(
    ("first", "others", "said"),
    [("on", "off", "node 1 sends in the clear, and is not heard"), ("off", "on", "no worker reported")],
)
def test_ranks_of_which_some_have_no_key_end_with_a_sentence(small, tmp_path, first, others, said):
    asked = words_for(small, tmp_path / "run.h5", "--start-timeout-s", "5", "--secure")
    again = [":", "-n", "1", sys.executable, "-m", "jarvis_mpi", *asked, others]
    done = mpirun(1, *asked, first, *again)
    errors = done.stderr.decode()
    assert done.returncode, errors
    assert said in errors
    assert "Traceback" not in errors
    assert_nothing_is_left()
