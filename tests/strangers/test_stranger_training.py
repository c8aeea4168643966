"""Training loops: upstream's as it is, stepped by hand, and loops of one's own without it."""

import os

import numpy as np
import pytest
import torch as th
import torch.nn.functional as F
from support.upstream_program import batches, build, differ, loop_arguments

from guided_diffusion import dist_util, logger, train_util
from guided_diffusion.fp16_util import MixedPrecisionTrainer
from guided_diffusion.nn import update_ema
from guided_diffusion.resample import (
    LossAwareSampler,
    ScheduleSampler,
    create_named_schedule_sampler,
)
from guided_diffusion.script_util import (
    NUM_CLASSES,
    classifier_and_diffusion_defaults,
    create_classifier_and_diffusion,
)
from guided_diffusion.train_util import (
    TrainLoop,
    find_ema_checkpoint,
    get_blob_logdir,
    log_loss_dict,
    parse_resume_step_from_filename,
)

CONDITIONAL = "--class_cond True --timestep_respacing=".split()


def test_train_loop_stops_at_lr_anneal_steps_and_resumes():
    _, model, diffusion = build(*CONDITIONAL)
    TrainLoop(**loop_arguments(model, diffusion)).run_loop()
    files = set(os.listdir(get_blob_logdir()))
    assert {"model000002.pt", "ema_0.9_000002.pt", "ema_0.99_000002.pt", "opt000002.pt"} <= files
    assert "progress.csv" in files and "log.txt" in files
    path = os.path.join(logger.get_dir(), "model000002.pt")
    assert parse_resume_step_from_filename(path) == 2
    assert find_ema_checkpoint(path, 2, 0.9).endswith("ema_0.9_000002.pt")
    fresh = build(*CONDITIONAL)[1]
    fresh.load_state_dict(dist_util.load_state_dict(path, map_location="cpu"))
    loop = TrainLoop(**loop_arguments(fresh, diffusion, resume_checkpoint=path, lr_anneal_steps=5))
    assert loop.resume_step == 2
    loop.run_loop()
    assert "model000004.pt" in os.listdir(logger.get_dir())


def test_a_second_experiment_in_one_folder_starts_from_scratch():
    for _ in range(2):
        _, model, diffusion = build(*CONDITIONAL)
        loop = TrainLoop(**loop_arguments(model, diffusion, lr_anneal_steps=2))
        assert loop.resume_step == 0
        loop.run_loop()
        assert loop.step == 2


def test_stepping_the_loop_by_hand():
    _, model, diffusion = build(*CONDITIONAL)
    loop = TrainLoop(**loop_arguments(model, diffusion))
    batch, cond = next(loop.data)
    loop.run_step(batch, cond)
    loop.step += 1
    loop.save()
    logger.dumpkvs()
    assert "ema_0.9_000001.pt" in os.listdir(logger.get_dir())


def test_attributes_of_the_loop_that_programs_read():
    _, model, diffusion = build(*CONDITIONAL)
    arguments = loop_arguments(model, diffusion, microbatch=-1)
    loop = TrainLoop(**arguments)
    for name in set(arguments) - {"microbatch", "ema_rate"}:
        assert getattr(loop, name) is arguments[name], name
    assert loop.microbatch == 4 and loop.ema_rate == [0.9, 0.99] and loop.global_batch == 4
    assert (loop.step, loop.resume_step, loop.use_ddp) == (0, 0, False)
    assert loop.ddp_model is model and loop.sync_cuda is th.cuda.is_available()
    trainer = loop.mp_trainer
    assert trainer.model is model and not differ(trainer.model_params, model.parameters())
    assert loop.opt.param_groups[0]["params"][0] is trainer.master_params[0]
    assert len(loop.ema_params) == 2 and len(loop.ema_params[0]) == len(trainer.master_params)


def test_a_search_of_ones_own_for_checkpoints(monkeypatch):
    _, model, diffusion = build(*CONDITIONAL)
    TrainLoop(**loop_arguments(model, diffusion)).run_loop()
    path = os.path.join(logger.get_dir(), "model000002.pt")
    monkeypatch.setattr(train_util, "find_resume_checkpoint", lambda: path)
    fresh = build(*CONDITIONAL)[1]
    loop = TrainLoop(**loop_arguments(fresh, diffusion))
    saved = dist_util.load_state_dict(path)
    assert loop.resume_step == 2 and th.equal(
        fresh.state_dict()["out.2.weight"], saved["out.2.weight"]
    )
    averages = dist_util.load_state_dict(path.replace("model", "ema_0.9_"))
    assert not differ(loop.ema_params[0], [averages[k] for k, _ in fresh.named_parameters()])
    assert loop.opt.state_dict()["state"][0]["step"] == 2


def test_a_folder_of_ones_own_for_checkpoints(monkeypatch, tmp_path):
    monkeypatch.setattr(train_util, "get_blob_logdir", lambda: str(tmp_path / "elsewhere"))
    (tmp_path / "elsewhere").mkdir()
    _, model, diffusion = build(*CONDITIONAL)
    loop = TrainLoop(**loop_arguments(model, diffusion))
    loop.save()
    assert "model000000.pt" in os.listdir(tmp_path / "elsewhere")


@pytest.mark.parametrize("name", ["uniform", "loss-second-moment"])
def test_my_own_training_loop(name):
    _, model, diffusion = build("--learn_sigma", "True", "--timestep_respacing", "")
    sampler = create_named_schedule_sampler(name, diffusion)
    optimizer = th.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0)
    ema = [p.detach().clone() for p in model.parameters()]
    before = [p.clone() for p in ema]
    data = batches()
    for _ in range(2):
        batch, _ = next(data)
        t, weights = sampler.sample(batch.shape[0], dist_util.dev())
        losses = diffusion.training_losses(model, batch, t, model_kwargs={})
        assert set(losses) >= {"loss", "mse", "vb"} and losses["loss"].shape == (4,)
        if isinstance(sampler, LossAwareSampler):
            sampler.update_with_local_losses(t, losses["loss"].detach())
        optimizer.zero_grad()
        (losses["loss"] * weights).mean().backward()
        optimizer.step()
        update_ema(ema, model.parameters(), rate=0.9)
        log_loss_dict(diffusion, t, {k: v * weights for k, v in losses.items()})
    assert differ(ema, before)
    assert "loss" in logger.getkvs()


def test_classifier_trains_with_its_own_optimizer():
    flags = dict(
        classifier_and_diffusion_defaults(),
        image_size=64,
        classifier_width=32,
        classifier_depth=1,
        classifier_attention_resolutions="8",
        classifier_use_scale_shift_norm=False,
        diffusion_steps=50,
    )
    model, diffusion = create_classifier_and_diffusion(**flags)
    trainer = MixedPrecisionTrainer(model=model, use_fp16=False, initial_lg_loss_scale=16.0)
    optimizer = th.optim.AdamW(trainer.master_params, lr=3e-4, weight_decay=0.05)
    sampler = create_named_schedule_sampler("uniform", diffusion)
    images, labels = th.randn(2, 3, 64, 64), th.tensor([1, 2])
    t, _ = sampler.sample(2, dist_util.dev())
    logits = model(diffusion.q_sample(images, t), timesteps=t)
    assert logits.shape == (2, NUM_CLASSES)
    loss = F.cross_entropy(logits, labels, reduction="none")
    trainer.zero_grad()
    trainer.backward(loss.mean())
    assert trainer.optimize(optimizer)
    saved = trainer.master_params_to_state_dict(trainer.master_params)
    model.load_state_dict(saved, strict=True)


class Clipping(MixedPrecisionTrainer):
    """Clips gradients before the step, and notes their norm as upstream does."""

    def _optimize_normal(self, opt):
        grad_norm, param_norm = self._compute_norms()
        logger.logkv_mean("norm_before", grad_norm)
        logger.logkv_mean("weights", param_norm)
        th.nn.utils.clip_grad_norm_(self.master_params, 1e-3)
        return super()._optimize_normal(opt)


def test_a_trainer_that_clips_gradients():
    _, model, diffusion = build(*CONDITIONAL)
    loop = TrainLoop(**loop_arguments(model, diffusion, lr_anneal_steps=0))
    loop.mp_trainer = Clipping(model=model, use_fp16=False, fp16_scale_growth=1e-3)
    loop.opt = th.optim.SGD(loop.mp_trainer.master_params, lr=1.0)
    before = [p.detach().clone() for p in model.parameters()]
    loop.run_step(*next(loop.data))
    moved = th.stack([(a - b).norm() for a, b in zip(model.parameters(), before, strict=True)])
    assert moved.norm().item() == pytest.approx(1e-3, rel=1e-3)
    logger.dumpkvs()
    with open(os.path.join(logger.get_dir(), "progress.csv")) as file:
        names, values = (line.strip().split(",") for line in file)
    row = dict(zip(names, values, strict=True))
    assert float(row["norm_before"]) > 1e-3 > float(row["grad_norm"]) * 0.99
    assert float(row["weights"]) == pytest.approx(
        th.stack([p.norm() for p in before]).norm().item(), rel=1e-3
    )


def test_the_rate_falls_after_each_step():
    _, model, diffusion = build(*CONDITIONAL)
    loop, rates = TrainLoop(**loop_arguments(model, diffusion, lr=1.0, lr_anneal_steps=4)), []
    optimize = loop.mp_trainer.optimize

    def noting(opt):
        rates.append(opt.param_groups[0]["lr"])
        return optimize(opt)

    loop.mp_trainer.optimize = noting
    loop.run_loop()
    # Upstream lowers the rate at a step's end, by the number of the step that ends.
    assert rates == pytest.approx([1, 1, 3 / 4, 2 / 4])


class Late(ScheduleSampler):
    """Draws the noisiest timesteps alone."""

    def __init__(self, diffusion):
        self._weights = np.arange(diffusion.num_timesteps) >= diffusion.num_timesteps - 2

    def weights(self):
        return self._weights * 1.0


class Adaptive(LossAwareSampler):
    """Draws each timestep by its latest loss."""

    def __init__(self, diffusion):
        self.latest = np.ones(diffusion.num_timesteps)

    def weights(self):
        return self.latest

    def update_with_all_losses(self, ts, losses):
        for t, loss in zip(ts, losses, strict=True):
            self.latest[t] = loss


def test_schedule_samplers_of_ones_own():
    _, model, diffusion = build(*CONDITIONAL)
    t, weights = Late(diffusion).sample(50, "cpu")
    assert set(t.tolist()) == {98, 99} and weights.tolist() == pytest.approx([2 / 100] * 50)
    asked = []
    forward = model.forward
    model.forward = lambda x, t, **kwargs: asked.extend(t.tolist()) or forward(x, t, **kwargs)
    for sampler in (Late(diffusion), Adaptive(diffusion)):
        changes = dict(schedule_sampler=sampler, lr_anneal_steps=1, save_interval=100)
        TrainLoop(**loop_arguments(model, diffusion, **changes)).run_loop()
    assert set(asked[:4]) <= {98, 99} and len(asked) == 8
    assert set(np.flatnonzero(sampler.latest != 1)) == set(asked[4:])


def test_upstreams_variable_ends_an_endless_training(monkeypatch):
    monkeypatch.setenv("DIFFUSION_TRAINING_TEST", "1")  # upstream's integration tests set it
    _, model, diffusion = build(*CONDITIONAL)

    def few():
        data = batches()
        yield from (next(data) for _ in range(6))
        pytest.fail("the loop went on after its first save")

    loop = TrainLoop(**loop_arguments(model, diffusion, data=few(), lr_anneal_steps=0))
    loop.run_loop()
    assert "model000002.pt" in os.listdir(logger.get_dir())


class Fixed(ScheduleSampler):
    """Draws in its own way, with upstream's two arguments."""

    def weights(self):
        return np.ones(100)

    def sample(self, batch_size, device):
        return th.full((batch_size,), 42, device=device), th.ones(batch_size, device=device)


class Unrelated:
    """Has the one method of a schedule sampler that upstream's loop calls."""

    def sample(self, batch_size, device):
        return th.full((batch_size,), 42, device=device), th.ones(batch_size, device=device)


@pytest.mark.parametrize("kind", [Fixed, Unrelated])
def test_a_sampler_that_draws_in_its_own_way(kind):
    _, model, diffusion = build(*CONDITIONAL)
    asked, forward = [], model.forward
    model.forward = lambda x, t, **kwargs: asked.extend(t.tolist()) or forward(x, t, **kwargs)
    changes = dict(schedule_sampler=kind(), lr_anneal_steps=1, save_interval=1)
    TrainLoop(**loop_arguments(model, diffusion, **changes)).run_loop()
    assert asked == [42] * 4 and "model000001.pt" in os.listdir(logger.get_dir())


class OnlyNext:
    """Data that can be asked for the next batch and for nothing else."""

    def __init__(self):
        self.batches, self.given = batches(), 0

    def __next__(self):
        self.given += 1
        return next(self.batches)


def test_data_that_only_has_a_next_batch():
    _, model, diffusion = build(*CONDITIONAL)
    data = OnlyNext()
    loop = TrainLoop(**loop_arguments(model, diffusion, data=data, lr_anneal_steps=2))
    loop.run_loop()
    assert data.given == 2


class Curriculum(TrainLoop):
    """Changes its data on the way."""

    later = None

    def run_step(self, batch, cond):
        super().run_step(batch, cond)
        self.data = self.later


def test_a_loop_that_changes_its_data():
    _, model, diffusion = build(*CONDITIONAL)
    Curriculum.later = later = OnlyNext()
    Curriculum(**loop_arguments(model, diffusion, lr_anneal_steps=3)).run_loop()
    assert later.given == 2


class Perceptual:
    """A process of one's own: upstream's loop asks it for losses, as it calls them."""

    num_timesteps = 100

    def training_losses(self, model, x_start, t, model_kwargs=None):
        return {"loss": (model(x_start, t, **model_kwargs) - x_start).abs().mean(dim=(1, 2, 3))}


def test_a_process_of_ones_own_in_upstreams_loop():
    _, model, _ = build(*CONDITIONAL)
    before = [p.detach().clone() for p in model.parameters()]
    TrainLoop(**loop_arguments(model, Perceptual(), lr_anneal_steps=1)).run_loop()
    assert differ(model.parameters(), before)


class OwnNorms(MixedPrecisionTrainer):
    """Notes the norms that each step computes."""

    def _compute_norms(self, grad_scale=1.0):
        norms = super()._compute_norms(grad_scale)
        self.seen = [*getattr(self, "seen", []), norms]
        return norms


def test_overriding_the_norms_of_a_trainer(monkeypatch):
    monkeypatch.setattr("guided_diffusion.train_util.MixedPrecisionTrainer", OwnNorms)
    _, model, diffusion = build(*CONDITIONAL)
    loop = TrainLoop(**loop_arguments(model, diffusion, lr_anneal_steps=2))
    loop.run_loop()
    assert len(loop.mp_trainer.seen) == 2
    assert all(isinstance(norm, float) for norms in loop.mp_trainer.seen for norm in norms)


def test_an_average_of_ones_own(monkeypatch):
    calls = []
    monkeypatch.setattr(
        "guided_diffusion.train_util.update_ema",
        lambda target_params, source_params, rate=0.99: calls.append(rate),
    )
    _, model, diffusion = build(*CONDITIONAL)
    changes = {"lr_anneal_steps": 1, "resume_checkpoint": None}
    TrainLoop(**loop_arguments(model, diffusion, **changes)).run_loop()
    assert calls == [0.9, 0.99]
