"""Pure modules, blocks, routes, messages, settings: no torch, no MPI, milliseconds."""

import contextlib
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jarvis_mpi.app import fault_injection
from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.common.layers import END_USER
from jarvis_mpi.common.options import parse
from jarvis_mpi.common.settings import Settings
from jarvis_mpi.net.plan import answers_that_fit
from jarvis_mpi.protocol import placement as blocks
from jarvis_mpi.protocol.cluster import Cluster, Hop, Policy
from jarvis_mpi.protocol.request import pieces
from jarvis_mpi.protocol.reserves import copies_to_load
from jarvis_mpi.protocol.wire import Kind, Message, StageRun, Vitals

PURE = [
    "study.skip_cases",
    "protocol.cluster",
    "protocol.placement",
    "protocol.wire",
    "protocol.link",
    "protocol.notes",
    "common.settings",
    "protocol.journal",
    "protocol.progress",
    "protocol.route_changes",
    "protocol.failure_detector",
    "protocol.coordinator",
    "protocol.dispatch",
    "protocol.request",
    "protocol.services",
    "protocol.steps_in_flight",
    "protocol.verification",
    "protocol.speculation",
    "protocol.maintenance",
    "protocol.worker",
    "net.heartbeat",
    "net.handshake",
    "net.plan",
    "net.shutdown",
]
HEAVY = ["torch", "transformers", "mpi4py", "h5py", "numpy"]


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_know_no_torch_mpi_or_hdf5(name):
    block = f"import sys; sys.modules.update(dict.fromkeys({HEAVY}))"
    subprocess.run([sys.executable, "-c", f"{block}; import jarvis_mpi.{name}"], check=True, timeout=60)


@pytest.mark.slow
def test_a_worker_imports_nothing_of_the_end_users():
    code = (
        "import jarvis_mpi.app.cli, jarvis_mpi.model.stage, sys; print(*(set(sys.modules) & {'h5py', "
        "'rich', 'tokenizers.decoders', 'mpi4py'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=120, capture_output=True, text=True
    )
    assert done.stdout.split() == []


# -- blocks


def test_the_default_keeps_the_first_and_the_last_layer_at_the_end_user():
    placement = blocks.place(18, 8, split="even", end_user_layers="first,last")
    assert placement[END_USER] == (range(0, 1), range(17, 18))
    assert [len(placement[node][0]) for node in range(1, 9)] == [2] * 8


def test_a_split_by_hand_is_taken_as_it_is():
    placement = blocks.place(18, 3, split="1,7,8", end_user_layers="first,last")
    assert placement[2] == (range(2, 9),)


def test_memory_gives_more_layers_to_whom_has_more():
    assert blocks.layer_counts(16, 3, "memory", [8e9, 4e9, 4e9]) == [8, 4, 4]
    assert blocks.layer_counts(2, 3, "memory", [1e9, 4e9, 2e9]) == [0, 1, 1]


@given(
    st.integers(3, 200),
    st.integers(1, 40),
    st.sampled_from(["none", "first", "last", "first,last"]),
    st.sampled_from(["even", "memory"]),
    st.data(),
)
def test_a_route_runs_every_layer_once_and_in_order(layers, workers, edges, split, data):
    free = {node: data.draw(st.floats(0, 1e12)) for node in range(1, workers + 1)}
    cluster = Cluster(blocks.place(layers, workers, split=split, end_user_layers=edges, free_bytes=free))
    assert [layer for hop in cluster.route() for layer in hop.block] == list(range(layers))
    assert all(hop.node == END_USER for hop in cluster.route() if ("first" in edges and 0 in hop.block))
    assert len(cluster.spares()) == max(0, workers - (layers - len(blocks.edge_layers(edges))))


@pytest.mark.parametrize(
    ("split", "edges", "sentence"),
    [
        ("2,2", "first,last", "2 workers and 4 layers, but there are 3 workers for 16"),
        ("2,x", "none", "is not 'even', 'memory' or layer counts"),
        ("20,-1,-1", "none", "gives a worker -1 layers"),
        ("even", "middle", "is not one of"),
        ("even", "none,first", "is not one of"),
    ],
)
def test_a_split_that_does_not_add_up_is_one_sentence(split, edges, sentence):
    with pytest.raises(Unservable, match=sentence):
        blocks.place(18, 3, split=split, end_user_layers=edges)


def test_no_worker_and_no_layer_for_one_are_sentences():
    with pytest.raises(Unservable, match="at least two ranks"):
        blocks.place(18, 0, split="even", end_user_layers="none")
    with pytest.raises(Unservable, match="leaves none to the workers"):
        blocks.place(2, 1, split="even", end_user_layers="first,last")


def test_as_many_answers_travel_as_there_is_memory_for():
    need, room = {0: 5e6, 1: 1e8, 2: 2e8, 3: 0.0}, {0: 1e9, 1: 1e9, 2: 7e8, 3: -1.0}
    assert answers_that_fit(16, need, room) == (3, 2)
    assert answers_that_fit(2, need, room)[0] == 2
    with pytest.raises(
        Unservable, match="take 200 MB on node 2, which has 90 MB left: say a smaller --max-new-tokens"
    ):
        answers_that_fit(16, need, {**room, 2: 9e7})


@given(st.integers(1, 5000), st.integers(1, 300), st.integers(1, 20))
def test_a_prompt_is_cut_into_pieces_of_about_one_size(rows, most, workers):
    cut = pieces(rows, most, workers)
    assert sum(cut) == rows
    assert max(cut) <= most
    assert max(cut) - min(cut) <= 1
    assert len(cut) <= max(-(-rows // most), workers)


# -- wire

blocks_ = st.builds(lambda a, n: range(a, a + n), st.integers(0, 999), st.integers(1, 99))
numbers = st.integers(0, 2**32 - 1)
shorts = st.integers(0, 2**16 - 1)
seconds = st.floats(0, 1e6, width=32)
messages = st.builds(
    Message,
    st.sampled_from(Kind), numbers, numbers, numbers, numbers, numbers, numbers, shorts, shorts,
    st.lists(st.builds(Hop, st.integers(0, 65535), blocks_, numbers, st.booleans()), max_size=20).map(tuple),
    st.lists(
        st.builds(StageRun, st.integers(0, 65535), blocks_, numbers, seconds, seconds, seconds, numbers,
                  st.floats(0, 1e9), st.booleans(), st.just(Vitals(9, -5, 1800))),
        max_size=20,
    ).map(tuple),
    st.integers(0, 2**200), st.binary(max_size=300),
)  # fmt: skip


@given(messages)
def test_a_message_comes_out_as_it_went_in(message):
    assert Message.unpack(bytearray(message.pack())) == message


@given(messages, st.data())
def test_what_is_no_message_is_a_value_error_and_nothing_else(message, data):
    packed = bytearray(message.pack())
    for _ in range(3):
        packed[data.draw(st.integers(0, min(7, len(packed) - 1)))] = data.draw(st.integers(0, 255))
    cut = packed[: data.draw(st.integers(0, len(packed)))]
    with contextlib.suppress(ValueError):
        Message.unpack(cut)


def test_an_activation_costs_its_bytes_and_a_small_header():
    route = tuple(Hop(node, range(node, node + 1)) for node in range(9))
    assert len(Message(Kind.STEP, ahead=route, body=bytes(4096)).pack()) < 4096 + 150


# -- settings


def test_every_knob_has_a_flag_and_the_words_become_settings():
    settings = parse(["--prompt", "hello", "--top-k", "5", "--temperature", "0.7", "--split", "2,3"])
    assert settings == Settings(prompt="hello", top_k=5, temperature=0.7, split="2,3")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--top-p 1.5", "--top-p is 1.5, but must be between 0.0 and 1.0"),
        ("--top-p 0", "leaves no token"),
        ("--temperature -1", "--temperature is -1.0, but must be at least 0.0"),
        ("--temperature nan", "--temperature is nan"),
        ("--max-new-tokens 0", "--max-new-tokens is 0"),
        ("--max-new-tokens many", "invalid int value: 'many'"),
        ("--colour red", "unrecognized arguments"),
        ("--dtype float16", "invalid choice: 'float16'"),
    ],
)
def test_a_value_out_of_range_is_one_sentence_that_names_it(words, sentence):
    with pytest.raises(Unservable, match=sentence):
        parse(["--prompt", "hello", *words.split()]).checked()


def test_a_node_that_holds_several_blocks_has_its_copies_elsewhere():
    placement = {0: (range(0, 1),), 1: (range(1, 3), range(4, 6)), 2: (range(6, 9),)}
    assert blocks.copies(placement, 2) == {range(1, 3): (0,), range(4, 6): (0,), range(6, 9): (1, 0)}


def test_a_node_that_cannot_load_a_copy_is_not_asked_again():
    holds = {0: (), **{node: (range(2 * node, 2 * node + 2),) for node in range(1, 5)}}
    cluster = Cluster(holds, {}, Policy(("copy", "skip"), copies=1), dict.fromkeys(holds, 100.0))
    first = {block: node for node, block in copies_to_load(cluster)}
    unable = {(node, block) for block, node in first.items()}
    second = {block: node for node, block in copies_to_load(cluster, (), unable)}
    assert second.keys() == first.keys()
    assert all(second[block] != first[block] for block in first)


@pytest.mark.parametrize("words", ["9" * 4301, "9" * 10])
def test_numbers_of_thousands_of_digits_are_one_sentence(words):
    with pytest.raises(Unservable, match="--split"):
        blocks.layer_counts(6, 2, f"{words},{words}")
    with pytest.raises(Unservable, match="--skip-layers"):
        blocks.counted_from_1(words, 6)
    with pytest.raises(Unservable, match="--never-skip"):
        blocks.layers_named(words, 6)
    with pytest.raises(Unservable, match="is not an order"):
        fault_injection.parse(f"kill {words} @ 3")


@pytest.mark.parametrize("words", ["stop 1 @ 2 for 0s", "stall 1 @ 2 for 0.0 s", "slow 1 x1", "slow 1 x0.5"])
def test_a_fault_that_would_do_nothing_is_refused(words):
    with pytest.raises(Unservable, match="would do nothing"):
        fault_injection.parse(words)


def test_a_fault_whose_step_does_not_come_is_told():
    told = list(fault_injection.not_reached("slow 2 x3; kill 1 @ 4; kill 1 @ 5; stop 2 @ 900 for 4s", 5))
    assert [sentence.split("'")[1] for sentence in told] == ["kill 1 @ 5", "stop 2 @ 900 for 4s"]
