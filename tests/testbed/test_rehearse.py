"""The rehearse command: its words, its statuses, and what each command calls."""

import pytest

from jarvis_mpi.testbed import own_hosts, own_links, own_slurm, rehearse

pytestmark = pytest.mark.slow


@pytest.fixture
def possible(monkeypatch):
    for made in (own_hosts, own_slurm):
        monkeypatch.setattr(made, "missing", lambda: "")


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        ("", 2, "hosts|slurm"),
        ("hosts", 2, "COMMAND"),
        ("hosts up four", 2, "invalid int value: 'four'"),
        ("hosts rate 2", 2, "LIMIT"),
        ("slurm burn 2", 2, "invalid choice: 'burn'"),
        ("hosts run 0", 1, "there is no COMMAND to run"),
    ],
)
def test_wrong_words_are_a_sentence(possible, words, status, says, capsys):
    assert rehearse.main(words.split()) == status
    assert says in capsys.readouterr().err


def test_what_is_in_the_way_is_said_before_anything_is_done(monkeypatch, capsys):
    monkeypatch.setattr(own_hosts, "missing", lambda: "hosts need Linux and root")
    assert rehearse.main(["hosts", "up", "4"]) == 1
    assert capsys.readouterr().err == "hosts need Linux and root\n"


def test_commands_call_what_they_are_named_for(possible, monkeypatch):
    called = []
    monkeypatch.setattr(rehearse, "processes", lambda host: [1] if host < 4 else [])
    monkeypatch.setattr(own_links, "cut", called.append)
    monkeypatch.setattr(own_links, "air", lambda *words: called.append(words))
    monkeypatch.setattr(own_slurm, "kill", called.append)
    for words in ("hosts cut 2 3", "hosts air 2 50 5", "slurm kill 4"):
        assert rehearse.main(words.split()) == 0
    assert called == [2, 3, (2, 50.0, 5.0), 4]
    assert rehearse.main(["hosts", "cut", "4"]) == 1
    assert called[4:] == []


def test_the_commands_are_taught(capsys):
    with pytest.raises(SystemExit) as ended:
        rehearse.main(["hosts", "--help"])
    assert not ended.value.code
    said = capsys.readouterr().out
    assert all(f"\n    {word} " in said for word in ("up", "run", "cut", "kill", "air", "down"))
