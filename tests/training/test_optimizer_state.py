"""Files of an optimizer that do not fit the network: refused before a number is used."""

import copy

import pytest
import torch

from guided_diffusion.errors import UserError
from guided_diffusion.resample import LossSecondMomentResampler, UniformSampler
from guided_diffusion.training import optimizer_state


class Process:
    num_timesteps = 5


def weights(width=3):
    return [torch.nn.Parameter(torch.ones(2, width)), torch.nn.Parameter(torch.ones(4))]


def optimizer(width=3, steps=2, **settings):
    opt = torch.optim.AdamW(weights(width), fused=True, **settings)
    for _ in range(steps):
        for param in opt.param_groups[0]["params"]:
            param.grad = torch.ones_like(param)
        opt.step()
    return opt


@pytest.fixture(scope="module")
def sound():
    sampler = LossSecondMomentResampler(Process)
    sampler.update_with_all_losses([0, 1, 2], [0.5, 0.25, 1.0])
    loop = {"lg_loss_scale": 17.0, "schedule_sampler": sampler.state_dict()}
    return optimizer().state_dict() | {"loop": loop}


def restore(tmp_path, content, opt=None, sampler=None):
    path = tmp_path / "opt000002.pt"
    torch.save(content, path)
    sampler = sampler or LossSecondMomentResampler(Process)
    return optimizer_state.restore(path, opt or optimizer(steps=0), sampler, 20.0)


def test_a_sound_file_gives_moments_scale_and_losses(tmp_path, sound):
    opt, sampler = optimizer(steps=0), LossSecondMomentResampler(Process)
    assert restore(tmp_path, sound, opt, sampler) == 17.0
    held = opt.state_dict()["state"]
    for number, entries in sound["state"].items():
        assert all(torch.equal(value, held[number][name]) for name, value in entries.items())
    assert sampler._loss_counts.tolist() == [1, 1, 1, 0, 0]
    assert restore(tmp_path, sound, sampler=UniformSampler(Process)) == 17.0
    upstream = {name: sound[name] for name in ("state", "param_groups")}
    assert restore(tmp_path, upstream) == 20.0


def test_steps_of_older_versions_of_torch_and_half_moments_are_taken(tmp_path, sound):
    old = copy.deepcopy(sound)
    for entries in old["state"].values():
        entries["step"], entries["exp_avg"] = 2, entries["exp_avg"].half()
    opt = optimizer(steps=0)
    restore(tmp_path, old, opt)
    first = opt.state[opt.param_groups[0]["params"][0]]
    assert first["step"].item() == 2 and first["exp_avg"].dtype == torch.float32
    opt.param_groups[0]["params"][0].grad = torch.ones(2, 3)
    opt.step()


def test_parameters_that_never_had_moments_begin_without(tmp_path, sound, recorder):
    unused = copy.deepcopy(sound)
    del unused["state"][1]
    opt = optimizer(steps=0)
    restore(tmp_path, unused, opt)
    assert len(opt.state) == 1 and "1 of 2 parameters have no moments yet" in recorder.text
    opt.param_groups[0]["params"][1].grad = torch.ones(4)
    opt.step()


def change(place, value):
    """Return a function that puts a value, or a function of the one there, in a place of a file."""

    def do(content):
        *way, last = place
        for key in way:
            content = content[key]
        content[last] = value(content[last]) if callable(value) else value

    return do


def put(*place):
    """Return a function that adds an entry to a file."""

    def do(content):
        for key in place[:-1]:
            content = content[key]
        content[place[-1]] = {}

    return do


def without(*place):
    def do(content):
        for key in place[:-1]:
            content = content[key]
        del content[place[-1]]

    return do


FIRST = ("state", 0, "exp_avg")
GROUP = ("param_groups", 0)
CHANGES = {
    "wider": (change(FIRST, torch.ones(2, 9)), "exp_avg of parameter 0 to be a tensor .2, 3."),
    "longer": (change(FIRST, torch.ones(60)), "to be a tensor"),
    "turned": (change(FIRST, torch.ones(3, 2)), "to be a tensor"),
    "scalar": (change(FIRST, torch.tensor(1.0)), "to be a tensor"),
    "empty": (change(FIRST, torch.ones(0)), "to be a tensor"),
    "a list": (change(FIRST, [1.0]), "to be a tensor"),
    "none": (change(FIRST, None), "got None"),
    "whole numbers": (change(FIRST, torch.ones(2, 3, dtype=torch.int64)), "floating-point"),
    "nan": (change(FIRST, lambda value: value * torch.nan), "finite numbers in exp_avg of"),
    "negative": (change(("state", 0, "exp_avg_sq"), lambda value: -value), "no negative number"),
    "sparse": (change(FIRST, lambda value: value.to_sparse()), "plain tensors, got a sparse"),
    "meta": (change(FIRST, lambda value: value.to("meta")), "plain tensors, got a tensor without"),
    "no moment": (without(*FIRST), "parameter 0 lacks 'exp_avg'"),
    "a further moment": (put("state", 0, "other"), "has a further entry"),
    "no step": (without("state", 0, "step"), "parameter 0 lacks 'step'"),
    "step in words": (change(("state", 0, "step"), "2"), "a number as step"),
    "half a step": (change(("state", 0, "step"), 0.5), "a whole number as step"),
    "step before 0": (change(("state", 0, "step"), torch.tensor(-3.0)), "a whole number as step"),
    "step nan": (change(("state", 0, "step"), torch.tensor(torch.nan)), "a whole number as step"),
    "many steps": (change(("state", 0, "step"), torch.ones(2)), "a number as step"),
    "further parameter": (put("state", 7), "state of a further one, parameter 7 of 2"),
    "state a list": (change(("state",), []), "the state of each parameter, got list"),
    "entries a list": (change(("state", 0), [1]), "named entries in parameter 0, got list"),
    "no groups": (change(("param_groups",), []), r"groups of \[2\] parameters, got \[\]"),
    "groups a dict": (change(("param_groups",), {}), "expected groups of parameters, got dict"),
    "group a text": (change(GROUP, "x"), "expected groups of parameters"),
    "fewer": (change((*GROUP, "params"), [0]), r"groups of \[2\] parameters, got \[1\]"),
    "numbered twice": (change((*GROUP, "params"), [0, 0]), "numbered from 0 to 1"),
    "numbered by text": (change((*GROUP, "params"), ["0", "1"]), "numbered from 0 to 1"),
    "numbered by tensors": (change((*GROUP, "params"), [torch.ones(2)] * 2), "numbered from 0 to"),
    "other betas": (change((*GROUP, "betas"), (5, 7)), r"expected betas \(0.9, 0.999\), got"),
    "betas of tensors": (change((*GROUP, "betas"), (torch.ones(2), 1)), "expected betas"),
    "eps nan": (change((*GROUP, "eps"), float("nan")), "expected eps 1e-08, got nan"),
    "eps in words": (change((*GROUP, "eps"), "1e-8"), "expected eps 1e-08, got '1e-8'"),
    "maximize": (change((*GROUP, "maximize"), True), "expected maximize False, got True"),
    "amsgrad": (change((*GROUP, "amsgrad"), 0), "expected amsgrad False, got 0"),
    "huge number": (change((*GROUP, "eps"), 10**500), "expected eps 1e-08, got 1000"),
    "scale 1e9": (change(("loop", "lg_loss_scale"), 1e9), "lg_loss_scale from -1000 to 1000"),
    "scale nan": (change(("loop", "lg_loss_scale"), float("nan")), "lg_loss_scale from"),
    "scale in words": (change(("loop", "lg_loss_scale"), "20"), "a number as lg_loss_scale"),
    "scale true": (change(("loop", "lg_loss_scale"), True), "a number as lg_loss_scale"),
    "scale a tensor": (change(("loop", "lg_loss_scale"), torch.ones(2)), "a number as lg_loss"),
    "loop a list": (change(("loop",), [1]), "named entries in 'loop', got list"),
    "loop none": (change(("loop",), None), "named entries in 'loop', got None"),
    "loop further": (put("loop", "x"), "'loop' has a further entry 'x'"),
    "further": (put("x"), "the file has a further entry 'x'"),
    "sampler a list": (change(("loop", "schedule_sampler"), [1]), "entries in 'schedule_sampler'"),
    "no counts": (without("loop", "schedule_sampler", "loss_counts"), "lacks 'loss_counts'"),
    "other T": (
        change(("loop", "schedule_sampler", "loss_history"), torch.ones(9, 10).double()),
        r"expected loss_history of the sampler as a tensor \[5, 10\] float64, got",
    ),
    "counts of text": (change(("loop", "schedule_sampler", "loss_counts"), "x"), "loss_counts"),
    "counts too high": (
        change(("loop", "schedule_sampler", "loss_counts"), lambda value: value + 99),
        "loss_counts: expected counts of 0 to 10",
    ),
    "losses nan": (
        change(("loop", "schedule_sampler", "loss_history"), lambda value: value * torch.nan),
        "finite numbers in loss_history",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_does_not_fit_is_told_with_file_and_way_out_and_changes_nothing(tmp_path, sound, name):
    content, (do, message) = copy.deepcopy(sound), CHANGES[name]
    do(content)
    opt = optimizer(steps=0)
    before = opt.state_dict()
    with pytest.raises(UserError, match=f"opt000002.pt: .*{message}") as error:
        restore(tmp_path, content, opt)
    assert "\n" not in str(error.value)
    if "plain tensors" not in message:
        assert "optimizer of another network or precision" in str(error.value)
        assert str(error.value).endswith("; to start without it, move it away")
    assert opt.state_dict() == before


@pytest.mark.parametrize("content", [[], torch.ones(2), {}, {"state": {}}, {"a": torch.ones(1)}])
def test_what_is_no_optimizer_is_told(tmp_path, content):
    with pytest.raises(UserError, match="opt000002.pt: .*expected 'state' and 'param_groups', got"):
        restore(tmp_path, content)


def test_moments_that_share_one_memory_are_parted(tmp_path, sound):
    content = copy.deepcopy(sound)
    content["state"][0]["exp_avg_sq"] = content["state"][0]["exp_avg"]
    opt = optimizer(steps=0)
    restore(tmp_path, content, opt)
    first = opt.state[opt.param_groups[0]["params"][0]]
    assert first["exp_avg"].data_ptr() != first["exp_avg_sq"].data_ptr()


def test_moments_that_repeat_one_number_get_memory_of_their_own(tmp_path, sound):
    content = copy.deepcopy(sound)
    content["state"][0]["exp_avg"] = torch.ones(1).expand(2, 3)
    with pytest.raises(UserError, match="a tensor that repeats"):
        restore(tmp_path, content)
