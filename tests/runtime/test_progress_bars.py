"""Progress bars pass their items on."""

from guided_diffusion.runtime import progress_bars


def test_progress_passes_its_items_on():
    assert list(progress_bars.progress(iter("abc"), total=3, unit="letter")) == ["a", "b", "c"]


def test_inner_progress_passes_its_steps_on(capsys):
    assert list(progress_bars.inner_progress([3, 2, 1], "steps")) == [3, 2, 1]
    assert "3/3" not in capsys.readouterr().err  # nobody is at a terminal
