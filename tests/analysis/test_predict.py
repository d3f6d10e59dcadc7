"""The predictor's model, where its answer can be reckoned by hand; and that a run predicts itself."""

import sys

import numpy as np
import pytest
from places import ROOT

sys.path.insert(0, str(ROOT / "analysis"))
from costs import Costs, costs_of, with_slow
from prediction import Network, extra_rtts, predicted

from jarvis_mpi.record.reader import load
from jarvis_mpi.record.run import Unreadable, tokens_per_s

COSTS = Costs(
    layers=18, layer_s=0.010, stage_s=0.001, row_s=0.002, head_s=0.020, hop_s=0.003, body_bytes=1000,
    header_bytes=100, run_bytes=0
)  # fmt: skip


def test_a_token_takes_the_layers_stages_hops_and_the_head():
    # 8 workers and the end user's two stages: 10 stages, 9 hops
    _, rate, ended = predicted(COSTS, Network(), 9, tokens=50)
    assert ended == ""
    assert 1 / rate == pytest.approx(18 * 0.010 + 10 * 0.001 + 9 * 0.003 + 0.020)
    _, slower, _ = predicted(COSTS, Network(delay_s=0.005, kbit_s=1000), 9, tokens=50)
    assert 1 / slower == pytest.approx(1 / rate + 9 * (0.005 + 1100 * 8e-6))
    _, burst, _ = predicted(COSTS, Network(kbit_s=1000, burst_bytes=16384), 9, tokens=50)
    assert burst == pytest.approx(rate)  # a bucket that is filled again before the next token


def test_a_prompt_in_pieces_keeps_all_stages_busy():
    first_s, _, _ = predicted(COSTS, Network(), 9, prompt_rows=768)
    one_by_one_s = 18 * (0.010 + 767 * 0.002)
    assert one_by_one_s / 8 < first_s < one_by_one_s / 3


def test_a_slow_node_costs_that_nodes_layers_only():
    _, rate, _ = predicted(COSTS, Network(), 9, tokens=20)
    _, slower, _ = predicted(with_slow(COSTS, 9, 3, 3.0), Network(), 9, tokens=20)
    assert 1 / slower == pytest.approx(1 / rate + 2 * (2 * 0.010 + 0.001))


def test_failures_cost_a_gap_each_until_nobody_is_left():
    _, rate, ended = predicted(COSTS, Network(), 9, tokens=200, failures_per_hour=60)
    _, whole, _ = predicted(COSTS, Network(), 9, tokens=200)
    assert ended == ""
    assert rate < whole
    _, _, ended = predicted(COSTS, Network(), 9, tokens=2000, failures_per_hour=2000, copies=0)
    assert "are lost and no copy is left" in ended


def test_large_messages_take_tcps_rtts():
    assert [extra_rtts(size) for size in (1000, 14000, 20000, 50000, 70000)] == [0, 0, 1, 2, 3]


def test_a_run_predicts_itself():
    run = load(ROOT / "tests" / "records" / "schema1.h5")
    costs = costs_of(run)
    assert costs.layers == 30
    assert costs.body_bytes == pytest.approx(2 * 576, rel=0.05)
    assert costs.layer_s > 0
    with pytest.raises(Unreadable, match="is of a run with faults"):
        costs_of(load(ROOT / "tests" / "records" / "schema3.h5"))


def test_answers_in_flight_together_share_the_time():
    """As in the table at a run's end: each one's tokens take longer, and more come in a second."""
    run = load(ROOT / "tests" / "records" / "schema1.h5")
    rate = tokens_per_s(run)
    run.tokens["total_s"] *= 1.0 + run.follows  # half of it was another's
    assert tokens_per_s(run) == pytest.approx(rate, rel=0.1)
    run.tokens["sequence"][1::2] += 1
    with pytest.raises(Unreadable, match="several answers in flight, or drafts"):
        costs_of(run)


def test_guesses_that_were_right_teach_nothing():
    run = load(ROOT / "tests" / "records" / "schema1.h5")
    run.tokens["hops"][3] = 0
    with pytest.raises(Unreadable, match="several answers in flight, or drafts"):
        costs_of(run)


def test_a_faster_end_user_is_no_faster_chain():
    """The line through the stages' layers and times begins below 0 then; their sum stays what it was."""
    run = load(ROOT / "tests" / "records" / "schema1.h5")
    run.hops["compute_s"] = np.where(run.hops["node"] == 0, 1e-4, run.hops["layers"] * 0.01)
    costs = costs_of(run)
    usual = run.hops[run.hops["step"] == run.tokens["step"][5]]
    assert costs.layers * costs.layer_s + len(usual) * costs.stage_s == pytest.approx(
        usual["compute_s"].sum(), rel=0.02
    )
