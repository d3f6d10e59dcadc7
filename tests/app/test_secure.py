"""--secure over the real mpirun, on one machine: the same text, or one sentence."""

import sys

import pytest
from running import assert_nothing_is_left, left_behind, mpirun, sentence, tokens_of, words_for

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
