"""A testbed made ready, over hosts of our own: the model delivered, a doctor that finds what is planted, a
job by ssh."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from itertools import combinations
from pathlib import Path

import pytest
from places import ROOT
from running import script

from jarvis_mpi.model import checkpoint
from jarvis_mpi.record.reader import load
from jarvis_mpi.testbed import link_rates, own_hosts, own_links, own_processes

COUNT = 5
HOSTFILE = own_processes.STATE / "hostfile"
MODEL = "smollm2-135m-instruct"
pytestmark = [pytest.mark.hosts, pytest.mark.mpirun]


@pytest.fixture(scope="module", autouse=True)
def everyone(tmp_path_factory):
    """Hosts that share nothing but the installed software: each has a cache of its own, and it is empty."""
    own_hosts.up(COUNT, tmp_path_factory.getbasetemp())
    checkpoint.locate(MODEL)
    for host in range(1, COUNT + 1):
        (own_processes.STATE / f"cache{host}").mkdir()
        bind(host, own_processes.STATE / f"cache{host}", Path.home() / ".cache" / "jarvis_mpi")
    yield
    own_hosts.down()


def bind(host: int, source: Path, target: Path) -> None:
    subprocess.run(own_processes.command(host, ["mount", "--bind", str(source), str(target)]), check=True)


def unbind(host: int, target: Path) -> None:
    subprocess.run(own_processes.command(host, ["umount", str(target)]), check=True)


def ours(
    *words: str | Path, program: tuple[str, ...] = (sys.executable, "-m", "jarvis_mpi"), **more
) -> subprocess.CompletedProcess:
    """A command where the user sits."""
    limited = ["timeout", "-k", "5", "200", *program, *map(str, words)]
    return subprocess.run(
        own_processes.command(0, limited), cwd=ROOT, capture_output=True, text=True, timeout=230, **more
    )


def sent_mb(output: str) -> dict[str, tuple[float, float]]:
    """host -> megabytes of tensors that are there, and that were sent."""
    lines = (line.replace(":", "").split() for line in output.splitlines() if "MB were sent" in line)
    return {words[0]: (float(words[1]), float(words[-4])) for words in lines}


def test_1_every_node_gets_the_tensors_that_it_lacks(tmp_path):
    own_links.rate(1, "100mbit")
    run = subprocess.Popen(
        own_processes.command(0, [sys.executable, "-m", "jarvis_mpi", "stage-model", "--hostfile",
                                  str(HOSTFILE)]),
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    cache, end = own_processes.STATE / "cache1", time.monotonic() + 60
    while sum(file.stat().st_blocks * 512 for file in cache.rglob("*.safetensors")) < 15e6:  # of its 85 MB
        assert time.monotonic() < end
        time.sleep(0.05)
    for pid in own_processes.busy(0):
        os.kill(pid, 9)
    run.communicate(timeout=30)
    own_links.rate(1, "none")
    half_way = ours("--model", MODEL, "--prompt", "hello", program=(
        "mpirun", "-hostfile", str(HOSTFILE), "-n", "6", sys.executable, "-m", "jarvis_mpi"))  # fmt: skip
    assert half_way.returncode != 0
    assert (
        "was not delivered whole: python -m jarvis_mpi stage-model sends what is missing" in half_way.stderr
    )
    first = sent_mb(ours("stage-model", "--hostfile", HOSTFILE).stdout)
    assert set(first) == {f"jv{host}" for host in range(1, COUNT + 1)}
    on_host_mb, sent = first["jv1"]
    assert 1 < sent < on_host_mb - 1, "it had to be killed half-way"
    per_layer = checkpoint.bytes_by_layer(checkpoint.locate(MODEL))
    last_block = sum(per_layer[layer] for layer in range(24, 29))  # of node 5, which holds no copy
    assert first["jv5"][0] == pytest.approx(last_block / 1e6, abs=0.1)
    assert {sent for _, sent in sent_mb(ours("stage-model", "--hostfile", HOSTFILE).stdout).values()} == {0.0}


def test_2_a_flipped_byte_is_found_and_mended():
    weights = next((own_processes.STATE / "cache2").glob("delivered/*/model.safetensors"))
    manifest = json.loads(weights.with_name("delivered.json").read_text())
    _, header, data = next(checkpoint.headers(checkpoint.locate(MODEL)))
    at = data + header[manifest["tensors"][5]]["data_offsets"][0] + 7
    with weights.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 16]))
    sent = sent_mb(ours("stage-model", "--hostfile", HOSTFILE).stdout)
    assert 0 < sent.pop("jv2")[1] < 4.3  # the piece with the byte
    assert {mb for _, mb in sent.values()} == {0.0}
    with weights.open("rb") as file:
        file.seek(at)
        assert file.read(1)[0] == byte


def test_3_a_job_checks_every_host_and_answers_with_what_was_delivered(tmp_path):
    log = own_processes.STATE / "job.h5"
    words = {"HOSTFILE": str(HOSTFILE), "LOG": str(log), "PROMPT": "Why is the sky blue?", "VENV": sys.prefix}
    done = ours(
        "--max-new-tokens",
        "12",
        "--fault",
        "kill 2 @ 4",
        program=("jobs/pis.sh",),
        env={**os.environ, **words},
    )
    assert done.returncode == 0, done.stderr
    assert "nothing to mend" in done.stdout
    assert "node 2 lost at step 4: layers 7-12 from the copy on node 1" in done.stderr
    run = load(log)
    assert (run.ended, len(run.tokens), run.tokens["layers"].min()) == ("done", 12, 30)
    assert [tuple(link[:2]) for link in run.links] == list(combinations(range(COUNT + 1), 2))
    assert all(0 < round_trip_s < 0.1 and kbit_s > 1e5 for _, _, round_trip_s, kbit_s in run.links)
    assert script("latency", log, "--formats", "svg") == ""


def test_4_layers_that_were_not_delivered_are_named_before_the_run():
    words = ("mpirun", "-hostfile", str(HOSTFILE), "-n", "6", sys.executable, "-m", "jarvis_mpi")
    done = ours("--prompt", "hello", "--split", "2,2,2,2,20", program=words)
    assert done.returncode == 1
    assert re.search(
        r"node ([1-5]) \(jv\1\): .* was delivered without layer \d.*: python -m jarvis_mpi stage-model",
        done.stderr,
    )
    assert "Traceback" not in done.stderr


def test_5_with_parts_delivered_a_host_that_is_down_is_bypassed():
    """Nobody else has its layers but the one that was sent copies of them."""
    own_hosts.off(3)
    words = ("mpirun", "-hostfile", str(HOSTFILE), "-n", "6", sys.executable, "-m", "jarvis_mpi")
    done = ours(
        "--prompt", "hello", "--max-new-tokens", "8", "--log", own_processes.STATE / "down.h5", program=words
    )
    own_hosts.boot(3)
    bind(3, own_processes.STATE / "cache3", Path.home() / ".cache" / "jarvis_mpi")
    assert done.returncode == 0, done.stderr
    assert "node 3 lost before the first token: it is bypassed" in done.stderr
    assert (load(own_processes.STATE / "down.h5").tokens["layers"] == 30).all()


def test_6_a_doctor_names_all_that_is_planted_in_one_line_each(tmp_path):
    package = ROOT / "jarvis_mpi" / "__init__.py"
    old, other, memory = (
        own_processes.STATE / "old.py",
        own_processes.STATE / "other",
        own_processes.STATE / "meminfo",
    )
    old.write_text(package.read_text().replace('__version__ = "', '__version__ = "0.0.'))
    shutil.copytree(own_processes.STATE / "cache3", other)
    config = next(other.glob("delivered/*/config.json"))
    config.write_text(json.dumps({**json.loads(config.read_text()), "rope_theta": 7.0}))
    memory.write_text(
        "MemTotal: 1000000 kB\nMemFree: 90000 kB\nMemAvailable: 100000 kB\nBuffers: 0 kB\nCached: 0 kB\n"
    )
    cache = Path.home() / ".cache" / "jarvis_mpi"
    own_hosts.off(1)
    bind(2, old, package)
    bind(3, other, cache)
    bind(4, memory, Path("/proc/meminfo"))
    own_links.rate(5, "2mbit")
    try:
        done = ours("doctor", "--hostfile", HOSTFILE, "--log", own_processes.STATE / "doctor.h5")
    finally:
        unbind(2, package)
        unbind(3, cache)
        unbind(4, Path("/proc/meminfo"))
        own_links.rate(5, "none")
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    for problem in (
        "jv1 cannot be reached by ssh: ",
        "jv2 has jarvis_mpi 0.0.",
        "jv3 has another model (fingerprint ",
        "jv4 has 0.10 GB of memory free, its ranks need 0.40 GB: give it fewer layers",
        "the link jv0 - jv5 carries ",
    ):
        assert sum(line.startswith(problem) for line in lines) == 1, (problem, done.stdout)
    mending = [
        line for line in lines if line.startswith("jv") and not line.startswith("jv0 ") and "  " not in line
    ]
    assert len(mending) == 4, done.stdout
    assert all(" - jv5 carries" in line for line in lines if line.startswith("the link"))


def test_links_are_measured_over_a_network_in_memory():
    import queue
    import threading

    from loopback import Loopback

    queues = [queue.Queue() for _ in range(3)]
    ends = [Loopback(node, queues) for node in range(3)]
    others = [
        threading.Thread(target=link_rates.serve, args=(end, time.perf_counter), daemon=True)
        for end in ends[1:]
    ]
    for other in others:
        other.start()
    found = list(link_rates.measure(ends[0], time.perf_counter))
    for other in others:
        other.join(timeout=10)
        assert not other.is_alive()
    assert [(link.a, link.b) for link in found] == [(0, 1), (0, 2), (1, 2)]
    assert all(0 < link.round_trip_s < 1 and link.kbit_s > 1 for link in found)
