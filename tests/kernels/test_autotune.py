"""autotune: the faster of two choices, measured once a host; a small difference counts as chance."""

import pytest

from jarvis_mpi.kernels import autotune


@pytest.fixture
def times(tmp_path, monkeypatch):
    """Set the seconds of each choice, as if measured."""
    monkeypatch.setenv("JARVIS_CACHE", str(tmp_path))
    monkeypatch.setattr(autotune, "seconds", lambda kernels, _outputs: list(kernels))
    return {"usual": 1.0, "other": 1.0}


def chosen(times) -> int:
    return autotune.fastest("test", (7, 9), lambda choice: times["usual" if choice == 7 else "other"], 1.0)


@pytest.mark.parametrize(("other_s", "expected"), [(2.0, 7), (1.0, 7), (0.95, 7), (0.8, 9)])
def test_the_usual_one_unless_the_other_is_clearly_faster(other_s, expected, times):
    assert chosen({**times, "other": other_s}) == expected


def test_it_is_measured_once(times):
    assert chosen({**times, "other": 0.5}) == 9
    assert chosen({**times, "other": 5.0}) == 9


def test_what_is_no_choice_is_measured_again(times, tmp_path):
    assert chosen({**times, "other": 0.5}) == 9
    (path,) = (path for path in (tmp_path / "kernels").iterdir() if path.suffix != ".lock")
    for content in ("", "8", "half a"):
        path.write_text(content)
        assert chosen(times) == 7
        assert path.read_text() == "7"
        path.unlink()


def test_without_room_it_is_measured_each_time(times, tmp_path):
    (tmp_path / "kernels").write_text("a file in its place")
    assert chosen({**times, "other": 0.5}) == 9
    assert chosen({**times, "other": 5.0}) == 7


def test_another_rank_that_measures_for_long_is_not_waited_for(times, monkeypatch):
    monkeypatch.setattr(autotune, "WAIT_S", 0.2)

    def slow(choice):  # meanwhile
        assert chosen({**times, "other": 0.5}) == 7
        return times["usual"]

    assert autotune.fastest("test", (7, 9), slow, 1.0) == 7


def test_real_kernels_are_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("JARVIS_CACHE", str(tmp_path))
    monkeypatch.setattr(autotune, "WEIGHTS_BYTES", 2**20)
    kernels = [autotune.block_product(4, ahead, "BF16") for ahead in autotune.AHEAD_BYTES]
    assert all(0 < took < 1 for took in autotune.seconds(kernels, 2**20 * 2 // autotune.COLUMNS))
