"""What all figures share."""

import sys

import pytest
from places import ROOT

sys.path.insert(0, str(ROOT / "analysis"))
import figure

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("scale", ["log", "symlog"])
def test_the_numbers_of_a_logarithmic_axis_are_no_formulas(scale, tmp_path):
    """Names of models and tasks may hold a dollar: formulas are not drawn."""
    made = figure.Figure()
    axes = made.add_subplot(title="a $name$")
    axes.plot([0.01, 1, 300])
    axes.set_yscale(scale)
    figure.save(made, tmp_path / "a", "svg", ["x"], [[1]])
    drawn = (tmp_path / "a.svg").read_text()
    assert "mathdefault" not in drawn
    assert ">100<" in drawn
    assert "a $name$" in drawn
