"""The training loop: it learns, and a run that was killed goes on as if it had not been."""

import numpy as np
import pytest
import torch
from support.cli import draw_images, snapshot
from support.reference_weights import draw, load_drawn_weights

from guided_diffusion import fp16_util, logger, train_util
from guided_diffusion.errors import UserError
from guided_diffusion.image_datasets import load_data
from guided_diffusion.models import checkpoint
from guided_diffusion.models.checkpoint import load_state
from guided_diffusion.resample import LossSecondMomentResampler, ScheduleSampler, UniformSampler
from guided_diffusion.script_util import create_model_and_diffusion, model_and_diffusion_defaults
from guided_diffusion.train_util import TrainLoop, find_resume_checkpoint, newest_checkpoint
from guided_diffusion.training import step_draws
from guided_diffusion.training.shown_weights import averaged_weights

FLAGS = {
    "image_size": 16,
    "num_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": "1",
    "attention_resolutions": "",
    "num_heads": 2,
    "diffusion_steps": 40,
}
LOOP = {
    "batch_size": 4,
    "microbatch": -1,
    "lr": 1e-3,
    "ema_rate": "0.9",
    "log_interval": 10**6,
    "save_interval": 10**6,
    "resume_checkpoint": "",
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return draw_images(tmp_path_factory.mktemp("images"), 6)


@pytest.fixture
def make(images, tmp_path, recorder):
    """Build a loop on a drawn network, as the training script does; quiet but for `recorder`."""

    def build(
        folder="run",
        *,
        data=None,
        sampler=None,
        network=None,
        augment="flip",
        layout=torch.preserve_format,
        **changes,
    ):
        flags = model_and_diffusion_defaults() | FLAGS | (network or {})
        model, diffusion = create_model_and_diffusion(**flags)
        arguments = LOOP | changes
        out_dir = tmp_path / folder
        start = newest_checkpoint(out_dir) or arguments["resume_checkpoint"]
        stream = load_data(
            data_dir=images,
            batch_size=arguments["batch_size"],
            image_size=16,
            augment=augment,
            class_cond=flags["class_cond"],
            start_step=train_util.parse_resume_step_from_filename(start),
        )
        return TrainLoop(
            load_drawn_weights(model).to(memory_format=layout),
            diffusion,
            stream if data is None else data,
            schedule_sampler=sampler(diffusion) if sampler else None,
            use_fp16=flags["use_fp16"],
            out_dir=out_dir,
            **arguments,
        )

    return build


def advance(loop, until):
    """Train until a step is done, then stop as if killed."""
    for done in loop.steps():
        if done == until:
            return loop
    raise AssertionError(f"the loop ended after {loop.done} steps")


def weights(loop):
    return [p.detach().clone() for p in loop.model.parameters()]


def equal(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def files_of(folder):
    """Names of all files but the digests, of which each checkpoint has one."""
    names = {path.name for path in folder.iterdir()}
    checkpoints = {name for name in names if name.endswith(".pt")}
    assert names - checkpoints == {f"{name}.sha256" for name in checkpoints}
    return sorted(checkpoints)


def test_the_loss_falls(make, recorder):
    make(lr=3e-3, log_interval=12, max_steps=48).run_loop()
    losses = [row["loss"] for row in recorder.rows]
    assert len(losses) == 4
    assert losses[-1] < 0.5 * losses[0]


def test_rows_tell_steps_images_losses_norms_and_what_is_left(make, recorder):
    make(log_interval=2, max_steps=4).run_loop()
    assert [row["step"] for row in recorder.rows] == [2, 4]
    assert [row["samples"] for row in recorder.rows] == [8, 16]
    assert recorder.rows[0].keys() >= {"loss", "mse", "grad_norm", "param_norm"}
    assert all(row["images_per_second"] > 0 for row in recorder.rows)
    assert recorder.rows[0]["minutes_left"] > 0 and recorder.rows[1]["minutes_left"] == 0


@pytest.mark.parametrize(
    ("network", "changes"),
    [
        ({}, {}),
        ({"dropout": 0.3}, {"microbatch": 3, "ema_rate": "0.5,0.99", "augment": "dihedral"}),
        ({"learn_sigma": True, "class_cond": True}, {"lr_anneal_steps": 8, "weight_decay": 0.1}),
    ],
)
def test_a_killed_run_goes_on_bit_for_bit(make, tmp_path, network, changes):
    common = {"network": network, "save_interval": 2, **changes}
    advance(make("whole", **common), 6)
    advance(make("killed", **common), 3)
    resumed = make("killed", **common)
    assert (resumed.resume_step, resumed.done) == (2, 2)
    advance(resumed, 6)

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    rates = str(common.get("ema_rate", "0.9")).split(",")
    kinds = ["model", "opt", *(f"ema_{rate}_" for rate in rates)]
    expected = [f"{kind}{step:06d}.pt" for kind in kinds for step in (2, 4, 6)]
    assert files_of(whole) == files_of(killed) == sorted(expected)
    for name in expected:
        if name.startswith("opt"):
            states = [torch.load(folder / name)["state"] for folder in (whole, killed)]
            states = [
                {(i, k): v for i, s in state.items() for k, v in s.items()} for state in states
            ]
        else:
            states = [load_state(folder / name) for folder in (whole, killed)]
        assert states[0].keys() == states[1].keys()
        assert equal(states[0].values(), states[1].values()), name


@pytest.mark.parametrize(
    "changes",
    [
        {
            "sampler": LossSecondMomentResampler,
            "save_interval": 12,
            "batch_size": 6,
            "network": {"diffusion_steps": 2, "noise_schedule": "cosine"},
        },
        {
            "network": {"use_fp16": True},
            "fp16_scale_growth": 0.5,
            "save_interval": 2,
            "batch_size": 1,
        },
    ],
)
def test_a_killed_run_remembers_losses_and_loss_scale(make, changes):
    saved = changes["save_interval"]
    whole = advance(make("whole", **changes), saved + 2)
    advance(make("killed", **changes), saved + 1)
    resumed = advance(make("killed", **changes), saved + 2)
    assert resumed.resume_step == saved
    state = whole.schedule_sampler.state_dict()
    assert all(counts.all() for counts in state.values())
    assert equal(state.values(), resumed.schedule_sampler.state_dict().values())
    assert whole.mp_trainer.lg_loss_scale == resumed.mp_trainer.lg_loss_scale
    assert equal(weights(whole), weights(resumed))


def test_another_seed_trains_otherwise(make):
    found = [weights(advance(make(f"run{seed}", seed=seed), 2)) for seed in (0, 0, 1)]
    assert equal(found[0], found[1]) and not equal(found[0], found[2])


def drawn(loop, batch, monkeypatch, rank=0, ranks=1, purpose=2):
    monkeypatch.setattr(train_util.dist_util, "rank", lambda: rank)
    monkeypatch.setattr(train_util.dist_util, "world_size", lambda: ranks)
    return loop._draws(batch, purpose)


@pytest.mark.parametrize("shape", [(3, 16, 16), (2,)])
def test_ranks_draw_together_what_one_process_does(make, monkeypatch, shape):
    loop = make()
    whole = drawn(loop, torch.empty(6, *shape), monkeypatch)
    parts = [drawn(loop, torch.empty(2, *shape), monkeypatch, rank, 3) for rank in range(3)]
    assert all(torch.equal(a, torch.cat(b)) for a, b in zip(whole, zip(*parts), strict=True))  # noqa: B905
    assert whole[2].dtype == torch.float32 and whole[2].shape == (6, *shape)


def test_a_rank_draws_the_noise_of_its_own_images_alone_and_each_from_its_own_stream(
    make, monkeypatch
):
    loop, seeds, generator = make(seed=5), [], step_draws.generator
    monkeypatch.setattr(
        step_draws, "generator", lambda *seed: seeds.append(seed) or generator(*seed)
    )
    batch = torch.empty(2, 3, 16, 16)
    drawn(loop, batch, monkeypatch, rank=3, ranks=8)
    assert seeds == [(5, 2, 0), (5, 2, 0, 7), (5, 2, 0, 8)]
    noise = [drawn(loop, batch, monkeypatch, purpose=purpose)[2] for purpose in (2, 20)]
    loop.step = 1
    streams = torch.cat([*noise, drawn(loop, batch, monkeypatch)[2]]).flatten(1)
    timesteps = generator(5, 2, 0).standard_normal(768, dtype=np.float32)
    streams = torch.cat([streams, torch.from_numpy(timesteps)[None]])
    assert (torch.corrcoef(streams) - torch.eye(7)).abs().max() < 0.2


def test_what_else_draws_random_numbers_does_not_matter(make):
    plain, disturbed = (make(name, network={"dropout": 0.3}) for name in "ab")
    for _ in range(2):
        plain.run_step(*next(plain.data))
        torch.rand(7)
        disturbed.run_step(*next(disturbed.data))
    assert equal(weights(plain), weights(disturbed))


@pytest.mark.parametrize("microbatch", [1, 2, 3, 4, 9])
def test_microbatches_add_up_to_the_gradient_of_the_batch(make, microbatch):
    batch = draw(3, 5, 3, 16, 16)
    gradients = []
    for size in (-1, microbatch):
        loop = make(batch_size=5, microbatch=size, network={"class_cond": True})
        loop.forward_backward(batch, {"y": torch.arange(5)})
        gradients.append([p.grad.clone() for p in loop.model.parameters()])
    assert any(g.abs().max() > 1e-3 for g in gradients[0])
    for whole, parts in zip(*gradients, strict=True):
        torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-4)


def test_gradients_of_the_last_step_are_forgotten(make):
    loop = make()
    batch, cond = next(loop.data)
    gradients = []
    for _ in range(2):
        loop.forward_backward(batch, cond)
        gradients.append([p.grad.clone() for p in loop.model.parameters()])
    assert equal(*gradients)


def test_averages_follow_their_rates(make):
    loop = make(ema_rate="0.5,0.9,0")
    expected = [weights(loop) for _ in range(3)]
    for _ in loop.steps():
        for rate, average in zip((0.5, 0.9, 0.0), expected, strict=True):
            for mean, now in zip(average, loop.model.parameters(), strict=True):
                mean.mul_(rate).add_(now.detach(), alpha=1 - rate)
        if loop.done == 3:
            break
    for average, found in zip(expected, loop.ema_params, strict=True):
        for a, b in zip(average, found, strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_the_rate_falls_to_zero_and_training_stops_there(make, tmp_path):
    loop = make(lr=0.01, lr_anneal_steps=4)
    rates = [loop.opt.param_groups[0]["lr"] for _ in loop.steps()]
    assert rates == pytest.approx([0.01, 0.0075, 0.005, 0.0025])
    assert "model000004.pt" in files_of(tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"max_steps": 3}, 3),
        ({"max_steps": 2, "lr_anneal_steps": 5}, 2),
        ({"max_steps": 5, "lr_anneal_steps": 2}, 2),
    ],
)
def test_a_run_ends_after_its_last_step_and_saves_it(make, tmp_path, changes, steps):
    make(**changes).run_loop()
    expected = [f"ema_0.9_{steps:06d}.pt", f"model{steps:06d}.pt", f"opt{steps:06d}.pt"]
    assert files_of(tmp_path / "run") == expected
    again = make(**changes)
    again.run_loop()
    assert (again.done, again.step) == (steps, 0)


def test_saved_files_hold_weights_averages_and_optimizer_of_their_step(make, tmp_path):
    loop = advance(make(save_interval=2, ema_rate="0.5,0.9"), 2)
    own, averages = weights(loop), [[p.clone() for p in ps] for ps in loop.ema_params]
    advance(loop, 4)
    saved = tmp_path / "run"
    assert list(load_state(saved / "model000002.pt")) == list(loop.model.state_dict())
    assert equal(load_state(saved / "model000002.pt").values(), own)
    for rate, average in zip(("0.5", "0.9"), averages, strict=True):
        assert equal(load_state(saved / f"ema_{rate}_000002.pt").values(), average)
    for step in (2, 4):
        state = torch.load(saved / f"opt{step:06d}.pt")["state"]
        assert {int(s["step"]) for s in state.values()} == {step}


def test_a_resumed_optimizer_is_the_one_of_the_step(make, tmp_path):
    advance(make(save_interval=2), 4)
    path = str(tmp_path / "run" / "model000002.pt")
    loop = make("other", resume_checkpoint=path)
    assert loop.done == 2
    assert {int(s["step"]) for s in loop.opt.state.values()} == {2}
    assert equal(weights(loop), load_state(path).values())


def test_flags_of_this_run_go_before_those_in_the_optimizer_file(make, tmp_path):
    advance(make(save_interval=2, lr=1e-3, weight_decay=0.1), 2)
    path = str(tmp_path / "run" / "model000002.pt")
    loop = make("other", resume_checkpoint=path, lr=1e-5, weight_decay=0.2)
    (group,) = loop.opt.param_groups
    assert (group["lr"], group["weight_decay"]) == (1e-5, 0.2)
    assert len(loop.opt.state) == len(list(loop.model.parameters()))


def test_own_checkpoints_go_before_the_one_to_start_from(make, tmp_path):
    advance(make("first", save_interval=3), 3)
    path = str(tmp_path / "first" / "model000003.pt")
    advance(make("second", resume_checkpoint=path, save_interval=5), 5)
    assert make("second", resume_checkpoint=path).done == 5


def test_a_released_checkpoint_starts_at_step_0(make, tmp_path, recorder):
    advance(make(save_interval=2), 2)
    released = tmp_path / "64x64_diffusion.pt"
    (tmp_path / "run" / "model000002.pt").rename(released)
    loop = make("other", resume_checkpoint=str(released))
    assert loop.done == 0 and not loop.opt.state
    assert f"loading {released}" in recorder.lines
    assert equal(loop.ema_params[0], load_state(released).values())


@pytest.mark.parametrize(
    ("state", "message"),
    [(None, "expected a whole checkpoint"), ("other", "optimizer of another network")],
)
def test_an_optimizer_file_that_does_not_fit_is_refused_by_name(make, tmp_path, state, message):
    advance(make(save_interval=2), 2)
    opt = tmp_path / "run" / "opt000002.pt"
    if state is None:
        opt.write_bytes(opt.read_bytes()[:1000])
    else:
        torch.save(torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))]).state_dict(), opt)
    path = str(tmp_path / "run" / "model000002.pt")
    with pytest.raises(UserError, match=f"^[^:]*opt000002.pt: {message}"):
        make("other", resume_checkpoint=path)


def test_of_several_averages_each_continues_its_own(make, tmp_path):
    advance(make(save_interval=2, ema_rate="0.5,0.9"), 2)
    loop = make(ema_rate="0.9,0.5")
    for rate, found in zip(("0.9", "0.5"), loop.ema_params, strict=True):
        assert equal(found, load_state(tmp_path / "run" / f"ema_{rate}_000002.pt").values())
    assert not equal(*loop.ema_params)


def test_a_new_average_starts_from_the_weights_and_says_so(make, tmp_path, recorder):
    advance(make(save_interval=2, ema_rate="0.5"), 2)
    loop = make(ema_rate="0.5,0.75")
    model = load_state(tmp_path / "run" / "model000002.pt")
    assert equal(loop.ema_params[1], model.values())
    assert not equal(loop.ema_params[0], model.values())
    assert [line for line in recorder.lines if line.startswith("no average of rate 0.75 beside")]
    assert not [line for line in recorder.lines if line.startswith("no average of rate 0.5 ")]
    advance(loop, 3)
    assert not equal(loop.ema_params[1], loop.model.parameters())


@pytest.mark.parametrize("name", ["model000004.pt", "opt000004.pt", "ema_0.9_000004.pt"])
@pytest.mark.parametrize("length", [0, 1000, None])
def test_a_damaged_newest_checkpoint_is_passed_over_and_named(
    make, tmp_path, recorder, name, length
):
    advance(make(save_interval=2), 4)
    path = tmp_path / "run" / name
    if length is None and name.startswith("ema"):
        path.write_bytes(path.read_bytes()[:-1])
    elif length is None and name.startswith("model"):
        path.write_text("text")
    elif length is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:length])
    loop = make()
    assert loop.done == 2
    assert equal(weights(loop), load_state(tmp_path / "run" / "model000002.pt").values())
    warnings = [line for line in recorder.lines if line.startswith("cannot resume from")]
    assert warnings and f"model000004.pt: {name}: " in warnings[0]


def test_a_half_written_checkpoint_is_ignored_and_written_again(make, tmp_path, recorder):
    advance(make(save_interval=2), 4)
    whole = (tmp_path / "run" / "model000004.pt").read_bytes()
    (tmp_path / "run" / "model000004.pt").unlink()
    loop = make(save_interval=2)
    assert loop.done == 2 and "cannot resume" not in recorder.text
    advance(loop, 4)
    assert len((tmp_path / "run" / "model000004.pt").read_bytes()) == len(whole)


def test_without_a_usable_checkpoint_training_does_not_start_anew_over_them(make, tmp_path):
    advance(make(save_interval=2), 4)
    (tmp_path / "run" / "model000002.pt").write_bytes(b"")
    (tmp_path / "run" / "opt000004.pt").unlink()
    before = snapshot(tmp_path)
    with pytest.raises(UserError, match="no checkpoint in it .* because of opt000004.pt: no such"):
        make()
    assert snapshot(tmp_path) == before


def test_a_killed_save_leaves_the_older_checkpoint_in_force(make, tmp_path, monkeypatch):
    loop = advance(make(save_interval=2), 2)

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "_save_params", killed)
    with pytest.raises(KeyboardInterrupt):
        advance(loop, 4)
    assert "opt000004.pt" in files_of(tmp_path / "run")
    assert make().done == 2


class Doubling(ScheduleSampler):
    """Draws as the uniform sampler does, with weight 2."""

    def __init__(self, diffusion):
        self.diffusion = diffusion

    def weights(self):
        return np.ones(self.diffusion.num_timesteps)

    def sample(self, *args, **keywords):
        t, importance = super().sample(*args, **keywords)
        return t, 2 * importance


def test_weights_of_the_sampler_weigh_the_loss(make, recorder):
    gradients = []
    for sampler in (UniformSampler, Doubling):
        loop = make(sampler=sampler)
        loop.forward_backward(*next(loop.data))
        gradients.append([p.grad.clone() for p in loop.model.parameters()])
        logger.dumpkvs()
    for once, twice in zip(*gradients, strict=True):
        torch.testing.assert_close(2 * once, twice, atol=1e-6, rtol=1e-4)
    assert recorder.rows[1]["loss"] == pytest.approx(2 * recorder.rows[0]["loss"], rel=1e-5)


def test_a_loss_aware_sampler_learns_from_every_unweighted_loss_once(make):
    loop = make(sampler=LossSecondMomentResampler, microbatch=2)
    sampler = loop.schedule_sampler
    sampler.sample = lambda n, device, rng: (torch.arange(n), torch.full((n,), 5.0))
    loop.run_step(*next(loop.data))
    assert sampler._loss_counts[:4].tolist() == [1, 1, 1, 1] and sampler._loss_counts.sum() == 4
    mean = sampler._loss_history[:4, 0].mean()
    assert logger.getkvs()["loss"] == pytest.approx(5 * mean, rel=1e-5)


def test_averaged_weights_are_lent_and_given_back(make):
    loop = advance(make(), 2)
    own = weights(loop)
    for training in (True, False):
        loop.model.train(training)
        with pytest.raises(KeyError), averaged_weights(loop) as model:
            assert model is loop.model and not model.training
            assert equal(model.parameters(), loop.ema_params[0])
            raise KeyError
        assert equal(weights(loop), own) and loop.model.training is training
    assert not equal(own, loop.ema_params[0])


def test_lending_averaged_weights_does_not_change_the_training(make):
    plain, lending = (make(name) for name in "ab")
    for _ in range(3):
        for loop in (plain, lending):
            loop.run_step(*next(loop.data))
            loop.step += 1
        with averaged_weights(lending):
            pass
    assert equal(weights(plain), weights(lending))
    assert equal(plain.ema_params[0], lending.ema_params[0])


def plain_adam(loop):
    """Give a loop the optimizer of earlier versions and of upstream, with a kernel per tensor."""
    groups = {"lr": loop.lr, "weight_decay": loop.weight_decay, "foreach": False}
    loop.opt = torch.optim.AdamW(loop.mp_trainer.master_params, **groups)
    return loop


def assert_equal_steps(one, other, steps=3):
    """Two loops move alike by given gradients; those of a loss that rounding moved would differ."""
    for step in range(steps):
        for loop in (one, other):
            for index, param in enumerate(loop.model.parameters()):
                param.grad = draw(100 * step + index, *param.shape)
            loop._optimize()
        for pair in (
            zip(weights(one), weights(other), strict=True),
            zip(one.ema_params[0], other.ema_params[0], strict=True),
        ):
            for first, second in pair:
                torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-7)


def test_the_fused_optimizer_steps_as_the_plain_one(make):
    fused, plain = make("fused"), plain_adam(make("plain"))
    assert fused.opt.param_groups[0]["fused"] and not plain.opt.param_groups[0]["fused"]
    assert_equal_steps(fused, plain)


def test_files_of_either_optimizer_resume_in_the_other(make, tmp_path):
    advance(plain_adam(make("old", save_interval=3)), 3)
    resumed, plain = make("old"), plain_adam(make("old"))
    assert resumed.done == 3 and resumed.opt.param_groups[0]["fused"]
    saved = torch.load(tmp_path / "old" / "opt000003.pt")
    plain.opt.load_state_dict(saved)
    assert not plain.opt.param_groups[0]["fused"]
    assert_equal_steps(resumed, plain)
    resumed.save()
    plain_adam(plain).opt.load_state_dict(torch.load(tmp_path / "old" / "opt000003.pt"))
    assert {int(state["step"]) for state in plain.opt.state.values()} == {6}
    assert_equal_steps(resumed, plain)


def test_moments_of_another_memory_layout_resume_to_the_same_weights(make, tmp_path):
    advance(make("first", save_interval=3), 3)
    path = tmp_path / "first" / "opt000003.pt"
    expected = advance(make("expected", resume_checkpoint=str(path.with_name("model000003.pt"))), 5)
    state = torch.load(path)
    for moments in state["state"].values():
        for name, value in moments.items():
            if value.ndim == 4:
                moments[name] = value.contiguous(memory_format=torch.channels_last)
    checkpoint.save_state(state, path)
    found = advance(make("found", resume_checkpoint=str(path.with_name("model000003.pt"))), 5)
    assert equal(weights(expected), weights(found))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("microbatch", [-1, 1])
def test_no_step_waits_for_its_device(make, monkeypatch, recorder, microbatch, precision):
    loop = make(batch_size=4, microbatch=microbatch, precision=precision)
    advance(loop, 1)
    batch, reads = next(loop.data), []
    for name in ("item", "cpu", "numpy", "tolist", "__float__", "__bool__", "__int__"):
        method = getattr(torch.Tensor, name)

        def counted(tensor, *args, _method=method, _name=name):
            reads.append(_name)
            return _method(tensor, *args)

        monkeypatch.setattr(torch.Tensor, name, counted)
    loop.run_step(*batch)
    assert reads == []
    logger.dumpkvs()
    assert len(reads) > 1 and recorder.rows[-1].keys() >= {"loss", "mse", "grad_norm", "step"}


def test_losses_are_noted_as_they_were_and_not_kept_for_ever(make, monkeypatch, recorder):
    monkeypatch.setattr(logger, "MOST_DEFERRED", 3)
    diffusion, losses = make().diffusion, torch.ones(2)
    for step in range(4):
        train_util.log_loss_dict(diffusion, torch.tensor([0, 39]), {"loss": losses})
        assert len(logger.get_current().deferred) == (step + 1) % 3
        losses += 1  # as a subclass may that goes on computing
    row = logger.dumpkvs()
    assert row == pytest.approx({"loss": 2.5, "loss_q0": 2.5, "loss_q3": 2.5})


@pytest.mark.parametrize(("precision", "last"), [("fp32", False), ("bf16", True)])
def test_a_cpu_computes_in_the_faster_memory_layout(make, precision, last):
    loop, seen = make(precision=precision), []
    block = loop.model.input_blocks[1]
    block.register_forward_hook(
        lambda m, i, out: seen.append(out.is_contiguous(memory_format=torch.channels_last))
    )
    loop.run_step(*next(loop.data))
    assert seen == [last]
    assert all(p.is_contiguous() and p.grad.is_contiguous() for p in loop.model.parameters())


@pytest.mark.parametrize("network", [{}, {"use_fp16": True}])
def test_a_run_goes_on_in_the_layout_of_tensor_cores_and_back(make, monkeypatch, network):
    last = torch.channels_last
    common = {"network": network, "save_interval": 2}
    plain = advance(make("plain", **common), 6)
    advance(make("run", **common), 2)
    with monkeypatch.context() as patch:
        patch.setattr(train_util.execution, "training_layout", lambda *_: (last, last))
        loop = make("run", layout=last, **common)
        assert loop.done == 2 and loop.model.out[2].weight.is_contiguous(memory_format=last)
        strides = [
            [p.stride() for p in params]
            for params in (loop.mp_trainer.master_params, loop.ema_params[0])
        ]
        assert strides[0] == strides[1]
        advance(loop, 4)
    back = advance(make("run", **common), 6)
    assert back.resume_step == 4
    # Adam makes whole steps, here of 1e-3, of gradients that are rounding alone.
    pairs = [(weights(back), weights(plain)), (back.ema_params[0], plain.ema_params[0])]
    for first, second in pairs:
        apart = [(a - b).abs().flatten() for a, b in zip(first, second, strict=True)]
        assert torch.cat(apart).mean() < 1e-5


def test_a_bfloat16_step_computes_in_bfloat16_and_keeps_float32_weights(make):
    seen = []
    found = {}
    for precision in ("fp32", "bf16"):
        loop = make(precision, precision=precision)
        loop.model.middle_block.register_forward_hook(lambda m, i, out: seen.append(out.dtype))
        found[precision] = weights(advance(loop, 2))
        assert np.isfinite(logger.dumpkvs()["loss"])
    assert seen == [torch.float32] * 2 + [torch.bfloat16] * 2
    assert {p.dtype for p in found["bf16"]} == {torch.float32}
    assert not equal(*found.values())
    for a, b in zip(*found.values(), strict=True):
        torch.testing.assert_close(a, b, atol=5e-3, rtol=0)


def test_float16_training_skips_overflows_and_saves_float32(make, tmp_path, recorder):
    fp16 = {"network": {"use_fp16": True}, "save_interval": 3}
    loop = make(**fp16)
    halves = {p.dtype for p in loop.model.middle_block.parameters()}
    assert torch.float16 in halves
    for scale, overflows in ((10.0, False), (200.0, True), (10.0, False)):
        loop.mp_trainer.lg_loss_scale = scale
        before = [*weights(loop), *(p.clone() for p in loop.ema_params[0])]
        advance(loop, loop.done + 1)
        assert equal(before, [*weights(loop), *loop.ema_params[0]]) is overflows
    (report,) = [line for line in recorder.lines if "overflowed" in line]
    assert report.startswith("step 2: skipped, gradients overflowed (norm ")
    assert report.endswith(") at lg_loss_scale 200.000, lowered to 199.000")
    assert {int(s["step"]) for s in loop.opt.state.values()} == {2}

    for name in ("model000003.pt", "ema_0.9_000003.pt"):
        state = load_state(tmp_path / "run" / name)
        assert {value.dtype for value in state.values()} == {torch.float32}
        assert list(state) == list(loop.model.state_dict())
    resumed = make(**fp16)
    assert resumed.done == 3
    assert equal(resumed.mp_trainer.master_params, loop.mp_trainer.master_params)
    assert equal(resumed.ema_params[0], loop.ema_params[0])
    with averaged_weights(resumed) as model:
        assert {p.dtype for p in model.middle_block.parameters()} == halves
    advance(resumed, 4)


class Spoiled:
    """Batches of which those of some steps hold a value that is no number."""

    def __init__(self, steps):
        self.steps, self.done = steps, 0

    def __iter__(self):
        return self

    def __next__(self):
        self.done += 1
        return draw(self.done, 4, 3, 16, 16) * (np.nan if self.done in self.steps else 1), {}


def state_of(loop):
    """Copies of what a step changes: weights, averages, and what the optimizer keeps."""
    moments = [value for state in loop.opt.state.values() for value in state.values()]
    return [
        [value.detach().clone() for value in values]
        for values in (loop.model.parameters(), loop.ema_params[0], moments)
    ]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_that_is_not_finite_is_skipped_and_reported(make, recorder, precision):
    start = str(advance(make("first", save_interval=1), 1).out_dir / "model000001.pt")
    loop = make(data=Spoiled({2}), precision=precision, resume_checkpoint=start)
    for done in range(2, 6):
        before = state_of(loop)
        advance(loop, done)
        assert [equal(a, b) for a, b in zip(before, state_of(loop), strict=True)] == [done == 3] * 3
    logger.dumpkvs()
    skipped = [line for line in recorder.lines if "skipped" in line]
    assert skipped == ["step 3: skipped, gradients overflowed (norm nan)"]
    assert all(p.isfinite().all() for p in loop.model.parameters())


@pytest.mark.parametrize(("interval", "stop", "count"), [(1, 7, 3), (4, 8, 4)])
def test_a_run_that_never_gets_finite_again_stops_with_sound_checkpoints(
    make, monkeypatch, interval, stop, count
):
    monkeypatch.setattr(fp16_util, "MAX_SKIPPED", 3)
    loop = make(data=Spoiled({3, *range(5, 99)}), save_interval=2, log_interval=interval)
    report = f"step {stop}: .* in {count} steps in a row; .* those of step 4,"
    with pytest.raises(UserError, match=report):
        loop.run_loop()
    states = [load_state(loop.out_dir / f"model00000{step}.pt") for step in (4, 6)]
    assert equal(*(state.values() for state in states))
    assert all(value.isfinite().all() for value in states[0].values())


def test_a_run_that_got_finite_again_before_anyone_looked_goes_on(make, monkeypatch, recorder):
    monkeypatch.setattr(fp16_util, "MAX_SKIPPED", 3)
    make(data=Spoiled({2, 3, 4, 5}), log_interval=8, max_steps=8).run_loop()
    assert len([line for line in recorder.lines if "skipped" in line]) == 4
    assert recorder.rows[-1]["step"] == 8 and np.isfinite(recorder.rows[-1]["grad_norm"])


def test_an_average_in_half_precision_goes_on_in_float32(make):
    first = advance(make("first", save_interval=1), 1)
    file = first.out_dir / "ema_0.9_000001.pt"
    checkpoint.save_state({k: v.half() for k, v in load_state(file).items()}, file)
    resumed = make("first")
    assert {p.dtype for p in resumed.ema_params[0]} == {torch.float32}


def test_float16_and_float32_optimizers_do_not_mix(make, tmp_path):
    advance(make(save_interval=1), 1)
    path = str(tmp_path / "run" / "model000001.pt")
    with pytest.raises(UserError, match="opt000001.pt: optimizer of another network or precision"):
        make("other", resume_checkpoint=path, network={"use_fp16": True})


@pytest.mark.parametrize(
    ("text", "rates"),
    [
        ("0.9999", [0.9999]),
        ("0.9999,0.999", [0.9999, 0.999]),
        (".99", [0.99]),
        ("1e-1", [0.1]),
        ("0", [0.0]),
        (" 0.5, 0.9 ", [0.5, 0.9]),
        (0.99, [0.99]),
        (0, [0.0]),
    ],
)
def test_decays_are_read_as_upstream_reads_them(text, rates):
    assert train_util.ema_rates(text) == rates


@pytest.mark.parametrize("text", ["", "1", "1.5", "-0.1", "nan", "inf", "0.9,", "0.9;0.99", "a"])
def test_what_is_no_decay_is_refused(text):
    with pytest.raises(UserError, match=r"ema_rate: expected decays in \[0, 1\)") as refused:
        train_util.ema_rates(text)
    assert str(refused.value).endswith(f"got {text!r}")


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("path/to/model000100.pt", 100),
        ("model1000000.pt", 1000000),
        ("model000000.pt", 0),
        ("gs://bucket/model000020.pt", 20),
        ("", 0),
        ("256x256_diffusion.pt", 0),
        ("ema_0.9999_000100.pt", 0),
        ("model.pt", 0),
        ("model_best.pt", 0),
        ("model7/x.pt", 0),
        ("model000100.pth", 0),
    ],
)
def test_the_step_stands_in_the_file_name(name, step):
    assert train_util.parse_resume_step_from_filename(name) == step


@pytest.mark.parametrize(
    ("rate", "step", "found"),
    [("0.9999", 100, True), (0.9999, 100, True), (0.999, 100, False), (0.9999, 200, False)],
)
def test_an_average_is_found_by_step_and_rate(tmp_path, rate, step, found):
    path = tmp_path / "ema_0.9999_000100.pt"
    path.touch()
    model = str(tmp_path / "model000100.pt")
    expected = str(path) if found else None
    assert train_util.find_ema_checkpoint(model, step, rate) == expected


def test_losses_are_logged_by_quarter_of_the_timesteps(make, recorder):
    diffusion = make().diffusion
    t = torch.tensor([0, 9, 10, 20, 29, 30, 39, 39])
    losses = torch.arange(8.0, requires_grad=True) * 1.0
    train_util.log_loss_dict(diffusion, t, {"mse": losses})
    train_util.log_loss_dict(diffusion, t[:1], {"mse": losses[7:]})
    row = logger.dumpkvs()
    assert row == pytest.approx(
        {
            "mse": (3.5 + 7) / 2,
            "mse_q0": (0 + 1 + 7) / 3,
            "mse_q1": 2,
            "mse_q2": 3.5,
            "mse_q3": 6,
        }
    )


def test_checkpoints_go_to_the_logger_where_no_folder_is_named(tmp_path, recorder, monkeypatch):
    assert train_util.get_blob_logdir() == "."
    monkeypatch.setattr(logger.get_current(), "dir", str(tmp_path))
    assert train_util.get_blob_logdir() == str(tmp_path)
    assert find_resume_checkpoint() is None


def test_the_last_step_is_logged_though_the_interval_does_not_divide_it(make, monkeypatch):
    rows = []
    monkeypatch.setattr(
        logger, "dumpkvs", lambda: rows.append(logger.get_current().name2val["step"])
    )
    make(max_steps=3, log_interval=2).run_loop()
    assert rows == [2, 3]
