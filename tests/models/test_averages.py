"""Averages of weights: the share that is still their start, and which file is used."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guided_diffusion.errors import UserError
from guided_diffusion.models import averages, checkpoint
from guided_diffusion.models.averages import Average, rate_of_update, share_of_start


@pytest.mark.parametrize(
    ("rate", "updates", "share"),
    [(0.9999, 300, 0.9704), (0.999, 1500, 0.2230), (0.9999, 0, 1), (0.5, 8, 0.5**8), (0, 1, 0)],
)
def test_at_a_constant_rate_the_start_fades_by_its_power(rate, updates, share):
    assert share_of_start(rate, updates) == pytest.approx(share, abs=1e-4)
    assert rate_of_update(rate, updates) == rate


@pytest.mark.parametrize(("update", "rate"), [(1, 2 / 11), (2, 3 / 12), (90, 0.91), (10**9, 0.999)])
def test_a_warm_up_begins_at_low_rates(update, rate):
    assert rate_of_update(0.999, update, warmup=True) == pytest.approx(rate)


@given(st.floats(0, 0.9999), st.integers(0, 300), st.booleans())
def test_the_share_is_the_product_of_the_rates(rate, updates, warmup):
    rates = [rate_of_update(rate, t, warmup) for t in range(1, updates + 1)]
    expected = math.prod(rates)
    assert share_of_start(rate, updates, warmup) == pytest.approx(expected, rel=1e-6, abs=1e-200)


def test_the_share_counts_from_where_the_average_began():
    assert Average(0.5, began=10).share(12) == 0.25 and Average(0.5).share(12) == 0.5**12
    assert Average(0.5, began=10).share(3) == 1
    assert Average(0.99, 10, warmup=True).rate_of_step(11) == 2 / 11
    told = "25 % is still the weights of step 10, where it began"
    assert Average(0.5, began=10).told(12) == told


def files(folder, *names):
    for name in names:
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["ema_0.9999_000300.pt"], "model000300.pt"),
        (["ema_0.99_000300.pt"], "ema_0.99_000300.pt"),
        (["ema_0.9999_000300.pt", "ema_0.99_000300.pt"], "ema_0.99_000300.pt"),
        (["ema_0.99_000200.pt"], "model000300.pt"),
    ],
)
def test_a_run_gives_its_own_weights_while_the_average_is_mostly_its_start(
    tmp_path, recorder, names, chosen
):
    files(tmp_path, "model000300.pt", *names)
    assert checkpoint.newest_weights(tmp_path).name == chosen
    young = "ema_0.9999_000300.pt" in names and chosen == "model000300.pt"
    told = (
        f"{tmp_path}: taking the weights of model000300.pt without averaging, since of "
        "ema_0.9999_000300.pt, 97 % is still the weights with which it began (more than 10 %); "
        "to have it all the same, name the file; training with --ema_warmup True makes averages "
        "useful sooner"
    )
    assert recorder.lines == ([told] if young else [])


def test_ten_percent_is_the_limit(tmp_path):
    files(tmp_path, "model000003.pt", f"ema_{0.1 ** (1 / 3) - 1e-9}_000003.pt")
    assert checkpoint.newest_weights(tmp_path).name.startswith("ema")
    files(tmp_path, "model000004.pt", f"ema_{0.1 ** (1 / 4) + 1e-9}_000004.pt")
    assert checkpoint.newest_weights(tmp_path).name == "model000004.pt"


def test_a_record_beside_the_files_tells_what_their_names_do_not(tmp_path, recorder):
    files(tmp_path, "model000300.pt", "ema_0.9999_000300.pt")
    averages.record(tmp_path, [Average(0.9999)])
    assert not (tmp_path / "averages.json").exists()
    averages.record(tmp_path, [Average(0.9999, warmup=True), Average(0.5, 290)])
    assert checkpoint.newest_weights(tmp_path).name == "ema_0.9999_000300.pt"
    files(tmp_path, "ema_0.5_000292.pt")
    averages.tell(tmp_path / "ema_0.5_000292.pt")
    averages.tell(tmp_path / "model000300.pt")
    (line,) = recorder.lines
    assert line.endswith("of this average, 25 % is still the weights of step 290, where it began")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}x",
        "[1]",
        '[{"rate": "0.5", "began": 0, "warmup": false}]',
        '[{"rate": 0.5, "began": -1, "warmup": false}]',
        '[{"rate": 1.5, "began": 0, "warmup": false}]',
        '[{"rate": NaN, "began": 0, "warmup": false}]',
        '[{"rate": 0.5, "began": 0, "warmup": 1}]',
        '[{"other": 0.5}]',
        "[" * 100000,
    ],
)
def test_a_record_that_makes_no_sense_is_named(tmp_path, content):
    files(tmp_path, "model000300.pt", "ema_0.5_000300.pt")
    (tmp_path / "averages.json").write_text(content)
    with pytest.raises(UserError, match="averages.json: expected a list of averages"):
        checkpoint.newest_weights(tmp_path)


def test_a_record_is_what_was_recorded(tmp_path):
    known = [Average(0.9999, 3, True), Average(0.5)]
    averages.record(tmp_path, known)
    assert averages.recorded(tmp_path) == known
    assert json.loads((tmp_path / "averages.json").read_text())[0]["began"] == 3
