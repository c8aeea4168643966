"""Programs as someone writes them who knows upstream's guided-diffusion and nothing of ours.

Only names, arguments and attributes of upstream's public modules appear here: a failure means
that such a program stopped to run unmodified.
"""

import argparse
import functools
import os

import numpy as np
import pytest
import torch as th
import torch.nn as nn
import torch.nn.functional as F
from PIL import Image

from guided_diffusion import dist_util, logger
from guided_diffusion.fp16_util import MixedPrecisionTrainer
from guided_diffusion.gaussian_diffusion import (
    GaussianDiffusion,
    LossType,
    ModelMeanType,
    ModelVarType,
    _extract_into_tensor,
    get_named_beta_schedule,
)
from guided_diffusion.image_datasets import load_data
from guided_diffusion.nn import mean_flat, update_ema
from guided_diffusion.resample import LossAwareSampler, create_named_schedule_sampler
from guided_diffusion.respace import SpacedDiffusion, space_timesteps
from guided_diffusion.script_util import (
    NUM_CLASSES,
    add_dict_to_argparser,
    args_to_dict,
    classifier_and_diffusion_defaults,
    classifier_defaults,
    create_classifier,
    create_classifier_and_diffusion,
    create_gaussian_diffusion,
    create_model_and_diffusion,
    diffusion_defaults,
    model_and_diffusion_defaults,
    sr_create_model_and_diffusion,
    sr_model_and_diffusion_defaults,
)
from guided_diffusion.train_util import (
    TrainLoop,
    get_blob_logdir,
    log_loss_dict,
    parse_resume_step_from_filename,
)
from guided_diffusion.unet import EncoderUNetModel, SuperResModel, UNetModel

SMALL = (
    "--image_size 16 --num_channels 32 --num_res_blocks 1 --channel_mult 1,2 --num_heads 2 "
    "--attention_resolutions 8 --diffusion_steps 100 --timestep_respacing 10"
).split()


@pytest.fixture(autouse=True)
def _stranger(tmp_path):
    """What stands at the top of every upstream script."""
    dist_util.setup_dist()
    logger.configure(dir=str(tmp_path / "logs"))
    th.manual_seed(0)
    yield
    logger.reset()


def create_argparser():
    defaults = dict(clip_denoised=True, num_samples=4, batch_size=2, use_ddim=False, model_path="")
    defaults.update(model_and_diffusion_defaults())
    parser = argparse.ArgumentParser()
    add_dict_to_argparser(parser, defaults)
    return parser


def build(*flags):
    args = create_argparser().parse_args([*SMALL, *flags])
    model, diffusion = create_model_and_diffusion(
        **args_to_dict(args, model_and_diffusion_defaults().keys())
    )
    for parameter in model.parameters():  # the zero-initialised layers would hide the input
        nn.init.normal_(parameter, std=0.05)
    return args, model.to(dist_util.dev()).eval(), diffusion


class MyDenoiser(nn.Module):
    """A user's wrapper: counts its calls and records the timesteps it is asked for."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.seen = []

    def forward(self, x, timesteps, y=None):
        self.seen.append(timesteps.detach().clone())
        return self.inner(x, timesteps, y=y)


class NoisyImages(th.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        values = np.random.RandomState(index).uniform(-1, 1, (3, 16, 16)).astype(np.float32)
        return values, {"y": np.array(index % NUM_CLASSES, dtype=np.int64)}


def forever(loader):
    while True:
        yield from loader


def batches():
    return forever(th.utils.data.DataLoader(NoisyImages(), batch_size=4, drop_last=True))


def test_parser_understands_upstreams_spellings():
    args = create_argparser().parse_args(
        ["--use_ddim", "True", "--learn_sigma", "yes", "--class_cond", "0", "--dropout", "0.1"]
    )
    assert args.use_ddim is True and args.learn_sigma is True and args.class_cond is False
    assert args.dropout == 0.1 and isinstance(args.image_size, int)
    assert set(diffusion_defaults()) <= set(vars(args))


def test_progressive_sampling_through_my_own_module():
    args, model, diffusion = build()
    wrapped = MyDenoiser(model)
    outs = list(
        diffusion.p_sample_loop_progressive(
            wrapped,
            (2, 3, 16, 16),
            clip_denoised=args.clip_denoised,
            model_kwargs={},
            progress=False,
        )
    )
    assert len(outs) == diffusion.num_timesteps == 10 == len(wrapped.seen)
    assert all(out["sample"].shape == (2, 3, 16, 16) for out in outs)
    assert all(out["pred_xstart"].abs().max() <= 1 for out in outs)
    first, last = wrapped.seen[0][0].item(), wrapped.seen[-1][0].item()
    assert (first, last) == (99, 0)  # the original process's timesteps, not the respaced ones


def test_sample_loop_ends_where_the_progressive_one_does():
    _, model, diffusion = build()
    noise = th.randn(2, 3, 16, 16)
    th.manual_seed(1)
    whole = diffusion.p_sample_loop(model, noise.shape, noise=noise)
    th.manual_seed(1)
    for out in diffusion.p_sample_loop_progressive(model, noise.shape, noise=noise):
        final = out["sample"]
    assert th.equal(whole, final)


def test_a_hand_written_loop_over_p_sample_is_the_sample_loop():
    _, model, diffusion = build()
    noise = th.randn(2, 3, 16, 16)
    th.manual_seed(1)
    whole = diffusion.p_sample_loop(model, noise.shape, noise=noise, clip_denoised=False)
    th.manual_seed(1)
    image = noise
    with th.no_grad():
        for index in reversed(range(diffusion.num_timesteps)):
            t = th.tensor([index] * 2, device=dist_util.dev())
            image = diffusion.p_sample(model, image, t, clip_denoised=False)["sample"]
    th.testing.assert_close(image, whole, rtol=0, atol=1e-6)


def test_sampling_from_a_plain_function_and_a_device():
    _, model, diffusion = build("--class_cond", "True")
    labels = th.randint(0, NUM_CLASSES, (2,), device=dist_util.dev())

    def model_fn(x, t, y=None):
        return model(x, t, y)

    sample = diffusion.ddim_sample_loop(
        model_fn, (2, 3, 16, 16), model_kwargs={"y": labels}, device=dist_util.dev(), eta=0.0
    )
    assert sample.shape == (2, 3, 16, 16) and th.isfinite(sample).all()
    pixels = ((sample + 1) * 127.5).clamp(0, 255).to(th.uint8).permute(0, 2, 3, 1).contiguous()
    assert pixels.shape == (2, 16, 16, 3)


def test_ddim_inversion_by_hand_comes_back():
    _, model, diffusion = build("--timestep_respacing", "ddim50")
    start = th.rand(1, 3, 16, 16) * 2 - 1
    state = start

    def smooth(x, t):
        return 0.2 * model(x, t)

    with th.no_grad():
        for index in range(diffusion.num_timesteps - 1):
            t = th.tensor([index])
            out = diffusion.ddim_reverse_sample(smooth, state, t, clip_denoised=False)
            assert set(out) >= {"sample", "pred_xstart"}
            state = out["sample"]
        for index in reversed(range(diffusion.num_timesteps)):
            t = th.tensor([index])
            state = diffusion.ddim_sample(smooth, state, t, clip_denoised=False, eta=0.0)["sample"]
    assert (state - start).abs().mean() < 0.1 * start.abs().mean()


def test_denoised_fn_is_applied_to_the_prediction():
    _, model, diffusion = build()
    t = th.tensor([5, 5])
    out = diffusion.p_mean_variance(
        model, th.randn(2, 3, 16, 16), t, denoised_fn=lambda x: th.full_like(x, 0.25)
    )
    assert th.equal(out["pred_xstart"], th.full((2, 3, 16, 16), 0.25))
    assert set(out) >= {"mean", "variance", "log_variance", "pred_xstart"}


def test_q_sample_is_the_formula_everyone_knows():
    _, _, diffusion = build()
    start, noise, t = th.randn(3, 3, 16, 16), th.randn(3, 3, 16, 16), th.tensor([0, 4, 9])
    ours = diffusion.q_sample(start, t, noise=noise)
    mine = (
        _extract_into_tensor(diffusion.sqrt_alphas_cumprod, t, start.shape) * start
        + _extract_into_tensor(diffusion.sqrt_one_minus_alphas_cumprod, t, start.shape) * noise
    )
    th.testing.assert_close(ours, mine)
    back = diffusion._predict_xstart_from_eps(x_t=ours, t=t, eps=noise)
    th.testing.assert_close(back, start, rtol=1e-3, atol=1e-3)
    eps = diffusion._predict_eps_from_xstart(ours, t, start)
    th.testing.assert_close(eps, noise, rtol=1e-2, atol=1e-2)
    mean, variance, log_variance = diffusion.q_mean_variance(start, t)
    th.testing.assert_close(variance.log(), log_variance)
    assert mean.shape == start.shape
    assert len(diffusion.q_posterior_mean_variance(x_start=start, x_t=ours, t=t)) == 3
    assert diffusion.q_sample(start, t).shape == start.shape


def test_classifier_guidance_as_in_the_paper():
    _, model, diffusion = build("--learn_sigma", "True", "--class_cond", "True")
    parser = argparse.ArgumentParser()
    add_dict_to_argparser(parser, classifier_defaults())
    args = parser.parse_args(
        "--image_size 64 --classifier_width 32 --classifier_depth 1 "
        "--classifier_attention_resolutions 8".split()
    )
    classifier = create_classifier(**args_to_dict(args, classifier_defaults().keys())).eval()
    assert isinstance(classifier, EncoderUNetModel)
    nn.init.normal_(classifier.out[-1].c_proj.weight, std=0.1)

    def cond_fn(x, t, y=None):
        with th.enable_grad():
            x_in = x.detach().requires_grad_(True)
            log_probs = F.log_softmax(classifier(F.interpolate(x_in, size=64), t), dim=-1)
            selected = log_probs[range(len(x)), y.view(-1)]
            return th.autograd.grad(selected.sum(), x_in)[0]

    kwargs = {"y": th.tensor([3, 7])}
    x, t = th.randn(2, 3, 16, 16), th.tensor([6, 6])
    with th.no_grad():
        out = diffusion.p_mean_variance(model, x, t, model_kwargs=kwargs)
        moved = diffusion.condition_score(cond_fn, out, x, t, model_kwargs=kwargs)
        mean = diffusion.condition_mean(cond_fn, out, x, t, model_kwargs=kwargs)
    assert not th.equal(moved["pred_xstart"], out["pred_xstart"])
    assert not th.equal(mean, out["mean"])
    for loop in (diffusion.p_sample_loop, diffusion.ddim_sample_loop):
        th.manual_seed(3)
        guided = loop(model, x.shape, noise=x, model_kwargs=kwargs, cond_fn=cond_fn)
        th.manual_seed(3)
        plain = loop(model, x.shape, noise=x, model_kwargs=kwargs)
        assert th.isfinite(guided).all() and not th.equal(guided, plain)


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
    assert any(not th.equal(a, b) for a, b in zip(ema, before, strict=True))
    assert "loss" in logger.getkvs()


def loop_arguments(model, diffusion, data, **changes):
    arguments = dict(
        model=model,
        diffusion=diffusion,
        data=data,
        batch_size=4,
        microbatch=2,
        lr=1e-4,
        ema_rate="0.9,0.99",
        log_interval=1,
        save_interval=2,
        resume_checkpoint="",
        use_fp16=False,
        fp16_scale_growth=1e-3,
        schedule_sampler=create_named_schedule_sampler("uniform", diffusion),
        weight_decay=0.0,
        lr_anneal_steps=3,
    )
    return {**arguments, **changes}


def test_train_loop_stops_at_lr_anneal_steps_and_resumes():
    _, model, diffusion = build("--class_cond", "True", "--timestep_respacing", "")
    TrainLoop(**loop_arguments(model, diffusion, batches())).run_loop()
    files = set(os.listdir(get_blob_logdir()))
    assert {"model000002.pt", "ema_0.9_000002.pt", "ema_0.99_000002.pt", "opt000002.pt"} <= files
    assert "progress.csv" in files and "log.txt" in files
    path = os.path.join(logger.get_dir(), "model000002.pt")
    assert parse_resume_step_from_filename(path) == 2
    fresh = build("--class_cond", "True", "--timestep_respacing", "")[1]
    fresh.load_state_dict(dist_util.load_state_dict(path, map_location="cpu"))
    changes = dict(resume_checkpoint=path, lr_anneal_steps=5)
    loop = TrainLoop(**loop_arguments(fresh, diffusion, batches(), **changes))
    assert loop.resume_step == 2
    loop.run_loop()
    assert "model000004.pt" in os.listdir(logger.get_dir())


class MyTrainLoop(TrainLoop):
    """The method users override most: their own loss inside upstream's loop."""

    def forward_backward(self, batch, cond):
        self.mp_trainer.zero_grad()
        for i in range(0, batch.shape[0], self.microbatch):
            micro = batch[i : i + self.microbatch].to(dist_util.dev())
            kwargs = {k: v[i : i + self.microbatch].to(dist_util.dev()) for k, v in cond.items()}
            t, weights = self.schedule_sampler.sample(micro.shape[0], dist_util.dev())
            compute = functools.partial(
                self.diffusion.training_losses, self.ddp_model, micro, t, model_kwargs=kwargs
            )
            if i + self.microbatch >= batch.shape[0] or not self.use_ddp:
                losses = compute()
            else:
                with self.ddp_model.no_sync():
                    losses = compute()
            losses["mine"] = mean_flat(micro**2)
            log_loss_dict(self.diffusion, t, {k: v * weights for k, v in losses.items()})
            self.mp_trainer.backward((losses["loss"] * weights).mean())


def test_subclassed_train_loop():
    _, model, diffusion = build("--class_cond", "True", "--timestep_respacing", "")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    loop = MyTrainLoop(**loop_arguments(model, diffusion, batches(), lr_anneal_steps=2))
    loop.run_loop()
    assert any(not th.equal(v, before[k]) for k, v in model.state_dict().items())
    assert "mine" in open(os.path.join(logger.get_dir(), "progress.csv")).readline()


class UpstreamStyleLoop(TrainLoop):
    """Upstream's own run_loop, as copied into many repositories."""

    def run_loop(self):
        while not self.lr_anneal_steps or self.step + self.resume_step < self.lr_anneal_steps:
            batch, cond = next(self.data)
            self.run_step(batch, cond)
            if self.step % self.log_interval == 0:
                logger.dumpkvs()
            if self.step % self.save_interval == 0:
                self.save()
            self.step += 1
        if (self.step - 1) % self.save_interval != 0:
            self.save()


def test_a_copied_run_loop_runs():
    _, model, diffusion = build("--class_cond", "True", "--timestep_respacing", "")
    loop = UpstreamStyleLoop(**loop_arguments(model, diffusion, batches(), lr_anneal_steps=2))
    loop.run_loop()
    assert {"model000000.pt", "model000002.pt"} <= set(os.listdir(logger.get_dir()))


def test_a_second_experiment_in_one_folder_starts_from_scratch():
    for _ in range(2):
        _, model, diffusion = build("--class_cond", "True", "--timestep_respacing", "")
        loop = TrainLoop(**loop_arguments(model, diffusion, batches(), lr_anneal_steps=2))
        assert loop.resume_step == 0
        loop.run_loop()
        assert loop.step == 2


def test_stepping_the_loop_by_hand():
    _, model, diffusion = build("--class_cond", "True", "--timestep_respacing", "")
    loop = TrainLoop(**loop_arguments(model, diffusion, batches()))
    batch, cond = next(loop.data)
    loop.run_step(batch, cond)
    loop.step += 1
    loop.save()
    logger.dumpkvs()
    assert "ema_0.9_000001.pt" in os.listdir(logger.get_dir())


class Inpainting(GaussianDiffusion):
    """A method's paper that changes one step of the sampler and leaves the loop alone."""

    known = None

    def p_sample(self, model, x, t, **kwargs):
        out = super().p_sample(model, x, t, **kwargs)
        out["sample"][:, :, :8] = self.known
        return out


class InpaintingSpaced(SpacedDiffusion, Inpainting):
    pass


@pytest.mark.parametrize("kind", [Inpainting, SpacedDiffusion])
def test_a_process_built_by_hand(kind):
    arguments = dict(
        betas=get_named_beta_schedule("linear", 50),
        model_mean_type=ModelMeanType.EPSILON,
        model_var_type=ModelVarType.FIXED_LARGE,
        loss_type=LossType.MSE,
        rescale_timesteps=True,
    )
    if kind is SpacedDiffusion:
        arguments["use_timesteps"] = space_timesteps(50, [5])
    diffusion = kind(**arguments)
    diffusion.known = 0.5
    sample = diffusion.p_sample_loop(
        lambda x, t: 0.1 * x, (1, 3, 16, 16), device=th.device("cpu"), progress=False
    )
    assert th.isfinite(sample).all()
    assert (sample[:, :, :8] == 0.5).all() or kind is SpacedDiffusion
    assert diffusion.betas.dtype == np.float64 and diffusion.alphas_cumprod.ndim == 1


def test_subclassing_the_process_below_the_respacing():
    base = create_gaussian_diffusion(steps=50)
    diffusion = InpaintingSpaced(
        use_timesteps=space_timesteps(50, "5"),
        betas=base.betas,
        model_mean_type=ModelMeanType.EPSILON,
        model_var_type=ModelVarType.FIXED_SMALL,
        loss_type=LossType.MSE,
    )
    diffusion.known = -0.5
    sample = diffusion.p_sample_loop(lambda x, t: 0.1 * x, (1, 3, 16, 16), device="cpu")
    assert (sample[:, :, :8] == -0.5).all()


class Conditioned(UNetModel):
    """Image-to-image: the condition joins the input's channels."""

    def __init__(self, image_size, in_channels, *args, **kwargs):
        super().__init__(image_size, in_channels * 2, *args, **kwargs)

    def forward(self, x, timesteps, source=None, **kwargs):
        return super().forward(th.cat([x, source], dim=1), timesteps, **kwargs)


def test_subclassed_network():
    model = Conditioned(16, 3, 32, 3, 1, (2,), channel_mult=(1, 2), num_heads=2)
    x = th.randn(2, 3, 16, 16)
    assert model(x, th.tensor([1, 2]), source=x).shape == x.shape
    diffusion = create_gaussian_diffusion(steps=10, noise_schedule="cosine")
    losses = diffusion.training_losses(model, x, th.tensor([1, 2]), model_kwargs={"source": x})
    losses["loss"].mean().backward()
    assert model.input_blocks[0][0].weight.grad is not None
    assert len(model.output_blocks) == 4 and model.middle_block is not None


def test_super_resolution():
    flags = dict(
        sr_model_and_diffusion_defaults(),
        large_size=64,
        small_size=16,
        num_channels=32,
        num_res_blocks=1,
        attention_resolutions="8",
        diffusion_steps=50,
        timestep_respacing="2",
    )
    model, diffusion = sr_create_model_and_diffusion(**flags)
    assert isinstance(model, SuperResModel)
    low = th.rand(1, 3, 16, 16) * 2 - 1
    sample = diffusion.p_sample_loop(model, (1, 3, 64, 64), model_kwargs={"low_res": low})
    assert sample.shape == (1, 3, 64, 64)


def test_bits_per_dimension():
    _, model, diffusion = build("--learn_sigma", "True")
    out = diffusion.calc_bpd_loop(model, th.zeros(2, 3, 16, 16), clip_denoised=True)
    assert set(out) >= {"total_bpd", "prior_bpd", "vb", "xstart_mse", "mse"}
    assert out["vb"].shape == (2, 10) and out["total_bpd"].shape == (2,)


def test_folder_of_images_with_class_prefixes(tmp_path):
    for index, name in enumerate(["cat_1.png", "dog_1.png", "cat_2.jpg", "dog_2.png"]):
        Image.new("RGB", (20, 24), (40 * index, 0, 0)).save(tmp_path / name)
    data = load_data(data_dir=str(tmp_path), batch_size=2, image_size=16, class_cond=True)
    batch, cond = next(data)
    assert batch.shape == (2, 3, 16, 16) and batch.dtype == th.float32
    assert set(cond["y"].tolist()) <= {0, 1} and batch.abs().max() <= 1
    batch, cond = next(load_data(data_dir=str(tmp_path), batch_size=4, image_size=16))
    assert cond == {}


def test_weights_travel_through_plain_files(tmp_path):
    _, model, _ = build()
    th.save(model.state_dict(), tmp_path / "weights.pt")
    _, other, _ = build()
    other.load_state_dict(
        dist_util.load_state_dict(str(tmp_path / "weights.pt"), map_location="cpu")
    )
    dist_util.sync_params(other.parameters())
    x, t = th.randn(1, 3, 16, 16), th.tensor([4])
    assert th.equal(model(x, t), other(x, t))
    other.convert_to_fp16()
    assert next(other.input_blocks.parameters()).dtype == th.float16
    other.convert_to_fp32()
    assert other(x, t).dtype == th.float32


def test_logging():
    logger.log("a line", 3)
    logger.logkv("a", 1)
    logger.logkv_mean("b", 1.0)
    logger.logkv_mean("b", 3.0)
    assert logger.getkvs()["b"] == 2.0
    written = logger.dumpkvs()
    assert written["a"] == 1
    with logger.profile_kv("inside"):
        pass
    with logger.scoped_configure(dir=os.path.join(logger.get_dir(), "inner")):
        logger.logkv("c", 2)
        logger.dumpkvs()
        assert os.path.basename(logger.get_dir()) == "inner"
    with open(os.path.join(logger.get_dir(), "inner", "progress.csv")) as file:
        assert file.read().split() == ["c", "2"]
