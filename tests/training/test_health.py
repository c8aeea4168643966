"""The health of a training: what is noted of each step, and what is made of it."""

import math

import pytest
import torch

from guided_diffusion.errors import DivergedError
from guided_diffusion.training.health import FEWEST, MOST_PENDING, Health, not_finite


def after(steps, health=None, losses=1.0, searching=False):
    """Return a `Health` that noted these steps: + moved the weights, - did not."""
    health = health or Health()
    for step in steps:
        health.note_losses(torch.tensor([1.0, losses]))
        health.note_step(step == "+", searching)
    return health


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ("", ""),
        ("+", ""),
        ("+-", ""),
        ("-", "1 of the last 1 steps skipped, as gradients were not finite"),
        ("+--", "2 of the last 3 steps skipped, as gradients were not finite"),
        ("-" * 15 + "+" * 15, ""),
        ("-" * 16 + "+" * 15, "16 of the last 31 steps skipped, as gradients were not finite"),
    ],
)
def test_most_steps_have_to_move_the_weights(steps, said):
    assert after(steps).judge() == said


def test_where_saves_are_close_more_steps_than_those_between_them_are_judged():
    health = after("+" * FEWEST)
    assert health.judge() == ""
    for skipped in range(1, FEWEST):
        assert (after("-", health).judge() != "") is (2 * skipped > FEWEST)


def test_steps_are_judged_once_where_saves_are_far_apart():
    health = after("-" * 20 + "+" * 30)
    assert health.judge() == "" and after("+" * 20, health).judge() == ""
    assert after("-" * 11 + "+" * 9, health).judge().startswith("11 of the last 20 steps")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_counts_though_weights_move(value):
    health = after("+" * 5, after("+" * 5), losses=value)
    assert health.judge() == ""
    assert after("+", health, losses=value).judge() == (
        "the loss was not finite in 6 of the last 10 steps"
    )


def test_one_part_of_a_batch_is_enough_to_lose_its_loss():
    health = Health()
    health.note_losses(torch.tensor([math.nan]))
    health.note_losses(torch.tensor([1.0]))
    health.note_step(torch.tensor(True))
    assert health.judge() == "the loss was not finite in 1 of the last 1 steps"


def test_the_search_for_the_first_loss_scale_is_no_harm_and_later_ones_are():
    health = after("-" * 30, searching=True)
    assert health.judge() == "" and (health.steps, health.skipped) == (30, 30)
    assert after("+", health).judge() == ""
    assert after("-" * 7, health, searching=True).judge().startswith("7 of the last 10 steps")
    assert "skipped" in after("---", searching=True, losses=math.nan).judge()


def test_flags_are_read_before_they_fill_the_device():
    health = after("+" * (MOST_PENDING - 1))
    assert health.steps == 0
    assert after("+", health).steps == MOST_PENDING


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("taken", [True, False, torch.tensor(True)])
def test_a_step_is_noted_without_waiting_for_a_gpu(taken):
    loss, health = torch.ones(2, device="cuda"), Health()
    taken = taken.to("cuda") if isinstance(taken, torch.Tensor) else taken
    torch.cuda.set_sync_debug_mode("error")  # whoever waits for the GPU fails
    try:
        health.note_losses(loss)
        health.note_losses(loss)
        health.note_step(taken)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert (health.judge() == "") is bool(taken)


def test_a_checkpoint_is_good_if_a_step_went_well_after_it():
    health = Health("model000004.pt", 4)
    assert (health.good, health.newest) == ("", "model000004.pt")
    assert after("-", health).good == "" and after("+", health).good == "model000004.pt"
    health.note_save("model000006.pt", 6)
    assert after("--", health).good == "model000004.pt"
    health.note_save("model000008.pt", 8)
    assert health.good == "model000004.pt" and after("-+", health).good == "model000008.pt"


@pytest.mark.parametrize(
    ("health", "left"),
    [
        (Health("", 0, "try"), "no checkpoint was saved; try, with another --out_dir"),
        (
            Health("a.pt", 5, "try"),
            "no step went well after a.pt, so go back to one before it; try, with another "
            "--out_dir",
        ),
        (
            after("+", Health("gs://a.pt", 5, "try")),
            "the last good checkpoint is gs://a.pt; try, with another --out_dir and that "
            "--resume_checkpoint",
        ),
        (
            after("+", Health("a.pt", 5, "try")),
            "the last good checkpoint is a.pt, which is gone; try, with another --out_dir",
        ),
    ],
)
def test_the_end_says_what_is_left_and_what_to_try(health, left):
    with pytest.raises(DivergedError) as ended:
        health.refuse_diverged("weights", 6, last=False)
    assert str(ended.value) == f"step 6: the weights are not finite, so the training ends; {left}"


def test_a_training_that_only_searched_for_a_loss_scale_has_trained_nothing():
    health = after("--", searching=True)
    health.refuse_diverged("", 2, last=False)
    with pytest.raises(DivergedError, match="step 2: nothing was trained, .* train for more steps"):
        health.refuse_diverged("", 2, last=True)
    after("+", health).refuse_diverged("", 3, last=True)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_group_with_a_number_that_is_not_finite_is_named(value):
    huge, wrong = torch.full((3,), 3e38), torch.tensor([0.0, value])
    assert not_finite({}) == not_finite({"a": [], "b": [huge, torch.empty(0)]}) == ""
    assert not_finite({"a": [huge], "b": iter([huge, wrong]), "c": [wrong]}) == "b"
    assert not_finite({"a": [torch.ones(2, dtype=torch.float16), huge], "b": [wrong]}) == "b"


def test_a_checkpoint_that_was_removed_meanwhile_is_told(tmp_path, recorder):
    (tmp_path / "a.pt").touch()
    health = Health()
    for name in ("a.pt", "b.pt", "c.pt"):
        health.note_save(str(tmp_path / name), 1)
    assert recorder.lines == [f"{tmp_path / 'b.pt'}, the checkpoint before this one, is gone"]
