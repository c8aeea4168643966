"""The training loop: upstream's interface, and runs that can be killed and resumed.

The result of a step depends on the seed, the step and the weights alone; `step_draws` says why n
ranks with batches of b train as one process with batches of n * b.
"""

import contextlib
import copy
import os
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch as th
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.optim import AdamW

from ..diffusion.gaussian_diffusion import GaussianDiffusion
from ..diffusion.resample import LossAwareSampler, ScheduleSampler, UniformSampler
from ..diffusion.signatures import accepted
from ..errors import UserError
from ..models import averages, checkpoint
from ..models.mismatch import SIGNS_OF_FLAGS
from ..networks.nn import update_ema
from ..runtime import atomic_files, dist_util, execution, faults, logger
from ..runtime.random_streams import Stream
from . import optimizer_state, starting_weights, step_draws
from .fp16_util import MixedPrecisionTrainer
from .health import Health, not_finite
from .loss_log import log_loss_dict
from .resume import (
    ema_rates,
    find_ema_checkpoint,
    find_resume_checkpoint,
    get_blob_logdir,
    log_what_is_missing,
    named_checkpoint,
    newest_checkpoint,
    parse_resume_step_from_filename,
)

Conditions = dict[str, th.Tensor]
Batch = tuple[th.Tensor, Conditions]
FUSED = ("cpu", "cuda")  # devices with an AdamW of one kernel


class TrainLoop:
    """Training loop of one model on batches of one domain; a subclass can give it other losses.

    Args:
        model: the network, on its device.
        diffusion: the process.
        data: endless pairs of this rank: a batch [N, ...] of images in [-1, 1] or points, and its
            conditions.
        ema_rate: decay of the averaged weights, one number or several with commas between;
            None: no average is kept.
        use_fp16: whether to use upstream's float16 recipe with a loss scale.
        schedule_sampler: distribution of the timesteps; None: uniform.
        out_dir: folder of checkpoints; the loop goes on from its newest one. Empty: the logger's
            folder, and the loop goes on only from `resume_checkpoint`, as upstream.
        precision: "fp32", "bf16" (autocast) or "auto".
        seed: base seed of timesteps and noise.

    The other arguments are described in `settings.DenoisingSettings`.
    """

    log_prefix = ""  # beginning of the names of logged losses
    end_flags = "max_steps", "lr_anneal_steps"  # names of the flags that end a training
    fp16_flag = "use_fp16"  # name of the flag of upstream's float16 recipe
    signs_of_flags = SIGNS_OF_FLAGS

    def __init__(
        self,
        model: th.nn.Module,
        diffusion: GaussianDiffusion,
        data: Iterable[Batch],
        batch_size: int,
        microbatch: int,
        lr: float,
        ema_rate: float | str | None,
        log_interval: int,
        save_interval: int,
        resume_checkpoint: str,
        *,
        use_fp16: bool = False,
        fp16_scale_growth: float = 1e-3,
        schedule_sampler: ScheduleSampler | None = None,
        weight_decay: float = 0.0,
        lr_anneal_steps: int = 0,
        out_dir: str | os.PathLike = "",
        precision: str = "fp32",
        seed: int = 0,
        max_steps: int = 0,
        init_checkpoint: str = "",
        ema_warmup: bool = False,
    ) -> None:
        self.model, self.diffusion, self.data = model, diffusion, data
        self.batch_size = batch_size
        self.microbatch = microbatch if microbatch > 0 else batch_size
        self.lr, self.weight_decay, self.lr_anneal_steps = lr, weight_decay, lr_anneal_steps
        self.ema_rate = [] if ema_rate is None else ema_rates(ema_rate)
        self.ema_warmup, self.averages = ema_warmup, dict[float, averages.Average]()
        self.log_interval, self.save_interval = log_interval, save_interval
        self.schedule_sampler = schedule_sampler or UniformSampler(diffusion)
        self.use_fp16, self.fp16_scale_growth = use_fp16, fp16_scale_growth
        self.sync_cuda = th.cuda.is_available()  # for upstream's users
        self.seed = seed
        self.out_dir, self._searches_out_dir = Path(out_dir or get_blob_logdir()), bool(out_dir)
        self.max_steps = min((n for n in (max_steps, lr_anneal_steps) if n > 0), default=0)
        self.device = next(model.parameters()).device
        self.precision = execution.settle_precision(precision, self.device)
        _, self.layout = execution.training_layout(self.device.type, self.precision, use_fp16)
        self.global_batch = batch_size * dist_util.world_size()

        self.resume_checkpoint, self.init_checkpoint = resume_checkpoint or "", init_checkpoint
        self.step, self.resume_step = 0, 0
        self._load_and_sync_parameters()
        self.mp_trainer = self._create_trainer()
        self.mp_trainer.step = self.resume_step

        resumed, masters = self.resume_checkpoint or self.resume_step, self.mp_trainer.master_params
        self.ema_params = [
            self._load_ema_parameters(rate) if resumed else copy.deepcopy(masters)
            for rate in self.ema_rate
        ]
        fused = self.device.type in FUSED or None
        self.opt = AdamW(masters, lr=lr, weight_decay=weight_decay, fused=fused)
        if resumed:
            self._load_optimizer_state()
        self._set_lr(max(self.resume_step - 1, 0))  # as the last step left it
        self._taken: bool | th.Tensor = True
        self.health = Health(self.resume_checkpoint, self.resume_step, self._advice())
        if wrong := not_finite(self._held()):
            start = self.resume_checkpoint or init_checkpoint or "the model"
            raise UserError(f"{start}: the {wrong} are not finite; start from another checkpoint")
        self.use_ddp = dist_util.world_size() > 1  # upstream's name, which subclasses read
        self.ddp_model = model
        if self.use_ddp:
            ids = [self.device.index] if self.device.type == "cuda" else None
            # The gradient of a kernel of one pixel has other strides than its weights, but the same
            # order in memory; DDP copies it, and its advice is of no use.
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
            self.ddp_model = DDP(model, device_ids=ids, gradient_as_bucket_view=True)

    def _load_and_sync_parameters(self) -> None:
        # The newest of the run's own folder, else the result of upstream's hook, else the argument.
        own = self._searches_out_dir and dist_util.once(lambda: newest_checkpoint(self.out_dir))
        start = own or self._find_elsewhere() or named_checkpoint(self.resume_checkpoint)
        self.resume_checkpoint = start
        if start:
            self.resume_step = parse_resume_step_from_filename(start)
            logger.log(f"loading {start}")
            log_what_is_missing(start)
            checkpoint.load_weights(self.model, start, self.signs_of_flags)
        elif self.init_checkpoint:
            starting_weights.start_from(self.model, self.init_checkpoint, self.signs_of_flags)
        dist_util.sync_params(self.model.parameters())

    def _find_elsewhere(self) -> str | None:
        return find_resume_checkpoint()

    def _create_trainer(self) -> MixedPrecisionTrainer:
        return MixedPrecisionTrainer(
            model=self.model, use_fp16=self.use_fp16, fp16_scale_growth=self.fp16_scale_growth
        )

    def _load_ema_parameters(self, rate: float) -> list[th.Tensor]:
        start = self.resume_checkpoint
        file = find_ema_checkpoint(start, self.resume_step, rate)
        began = averages.beginning(file) if file else self.resume_step
        self.averages[rate] = averages.Average(rate, began, self.ema_warmup)
        if file is None:
            logger.log(f"no average of rate {rate} beside {start}: it starts from the weights")
            return copy.deepcopy(self.mp_trainer.master_params)
        logger.log(f"loading {file}")
        loaded = checkpoint.load_state(file)
        checkpoint.refuse_unlike(self.model.state_dict(), loaded, file, self.signs_of_flags)
        # In float32 for every format of the file: half precision is too coarse for slow averages.
        found = self._masters_of({k: v.to(self.device, th.float32) for k, v in loaded.items()})
        return list(map(optimizer_state.in_layout_of, self.mp_trainer.master_params, found))

    def _load_optimizer_state(self) -> None:
        file = Path(self.resume_checkpoint).parent / f"opt{self.resume_step:06d}.pt"
        if not os.path.lexists(file):
            return
        logger.log(f"loading {file}")
        self.mp_trainer.lg_loss_scale = optimizer_state.restore(
            file, self.opt, self.schedule_sampler, self.mp_trainer.lg_loss_scale
        )
        for group in self.opt.param_groups:  # the flag of this run, not of the file's run
            group["weight_decay"] = self.weight_decay

    @property
    def done(self) -> int:
        """Number of steps done, with the steps before a resume."""
        return self.step + self.resume_step

    def run_loop(self) -> None:
        """Train to the end."""
        for _ in self.steps():
            pass

    def steps(self) -> Iterator[int]:
        """Train, yielding the number of steps done after each; logs and saves on the way."""
        started = time.monotonic()
        while not self.max_steps or self.done < self.max_steps:
            batch = self._next_batch()
            with self.health.advising():
                self.run_step(*batch)
            self.step += 1
            faults.point("train.step")
            if self.done % self.log_interval == 0 or self.done == self.max_steps:
                rate = self.step / max(time.monotonic() - started, 1e-9)
                logger.logkv("images_per_second", rate * self.global_batch)
                if self.max_steps:
                    logger.logkv("minutes_left", (self.max_steps - self.done) / rate / 60)
                with self.health.advising():
                    logger.dumpkvs()
            if self.done % self.save_interval == 0 or self.done == self.max_steps:
                self.save()
                if os.getenv("DIFFUSION_TRAINING_TEST"):  # upstream's short trainings
                    return
            yield self.done

    def _next_batch(self) -> Batch:
        if not hasattr(self.data, "__next__"):
            self.data = iter(self.data)
        try:
            return next(self.data)
        except (UserError, OSError) as error:
            # The others are in the middle of a step, so that a rank alone has nothing to save.
            if dist_util.world_size() == 1 and self.done > self.health.newest_step:
                self.save()
            raise UserError(
                f"after {self.done} steps: {error}; {self.health.last_save}; when the data is "
                "there again, the same command goes on"
            ) from None

    def run_step(self, batch: th.Tensor, cond: Conditions) -> None:
        """Do one optimizer step."""
        self.forward_backward(batch, cond)
        self._optimize()
        self.log_step()

    def forward_backward(self, batch: th.Tensor, cond: Conditions) -> None:
        """Add up the gradients of a batch, one microbatch after another."""
        self.mp_trainer.zero_grad()
        timesteps, weights, noise = self._draws(batch)
        step_draws.seed_dropout(self.seed, self.done)
        step_draws.draw_priority(self.model, self.seed, self.done)
        for start in range(0, len(batch), self.microbatch):
            part = slice(start, start + self.microbatch)
            images, eps = (execution.upload(v[part], self.device) for v in (batch, noise))
            if images.ndim == 4:
                images = images.to(memory_format=self.layout)
            kwargs = {k: execution.upload(v[part], self.device) for k, v in cond.items()}
            t, w, share = timesteps[part], weights[part], len(batch[part]) / len(batch)
            last = part.stop >= len(batch) or not self.use_ddp
            with contextlib.nullcontext() if last else self.ddp_model.no_sync():
                with execution.autocast(self.device, self.precision):
                    losses = self._losses(images, kwargs, t, eps)
                if isinstance(self.schedule_sampler, LossAwareSampler):
                    self.schedule_sampler.update_with_local_losses(t, losses["loss"].detach())
                named = {f"{self.log_prefix}{k}": v.detach() * w for k, v in losses.items()}
                log_loss_dict(self.diffusion, t, named)
                self.health.note_losses(losses["loss"])
                self.mp_trainer.backward((losses["loss"] * w).mean() * share)

    def _losses(
        self, images: th.Tensor, cond: Conditions, t: th.Tensor, noise: th.Tensor
    ) -> dict[str, th.Tensor]:
        """Return losses of each image to log, {name: [N]}; training minimises "loss"."""
        losses, model = self.diffusion.training_losses, self.ddp_model
        return losses(model, images, t, model_kwargs=cond, **accepted(losses, noise=noise))

    def _draws(
        self, batch: th.Tensor, stream: Stream = Stream.TRAINING_NOISE
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """Return this rank's timesteps, loss weights and noise (on the host) of this step."""
        *drawn, noise = step_draws.draw_timesteps_and_noise(
            self.schedule_sampler, batch, self.seed, self.done, stream
        )
        return *(execution.upload(values, self.device) for values in drawn), noise

    def _optimize(self) -> None:
        self._take_step()
        self._anneal_lr()

    def _take_step(self) -> None:
        self._taken = self.mp_trainer.optimize(self.opt)
        self.health.note_step(self._taken, self.mp_trainer.searching)
        if self._taken is not False:  # where the device decides, it is not waited for
            self._update_ema()

    def _update_ema(self) -> None:
        given = accepted(update_ema, taken=self._taken)
        for rate, params in zip(self.ema_rate, self.ema_params, strict=True):
            kept = self.average(rate).rate_of_step(self.done + 1)
            update_ema(params, self.mp_trainer.master_params, rate=kept, **given)

    def average(self, rate: float) -> averages.Average:
        """Return what is known of the average of a rate."""
        return self.averages.get(rate, averages.Average(rate, 0, self.ema_warmup))

    def _anneal_lr(self) -> None:
        if self.lr_anneal_steps:
            self._set_lr(self.done)

    def _set_lr(self, done: int) -> None:
        share = 1 - done / self.lr_anneal_steps if self.lr_anneal_steps else 1.0
        for group in self.opt.param_groups:
            group["lr"] = self.lr * share

    def log_step(self) -> None:
        """Log the number of steps and images done."""
        logger.logkv("step", self.done + 1)
        logger.logkv("samples", (self.done + 1) * self.global_batch)

    def save(self) -> None:
        """Save optimizer, averaged weights and, last, weights, which complete a checkpoint.

        Raises:
            DivergedError: on all ranks, before anything is written, if one of them holds numbers
                that are not finite, or did most steps since the last save in vain.
        """
        last = self.done == self.max_steps
        self.health.refuse_diverged(not_finite(self._held()), self.done, last)
        path = self.out_dir / f"model{self.done:06d}.pt"
        if dist_util.rank() == 0:
            atomic_files.make_subfolder(self.out_dir)
            with_loop = self.opt, self.schedule_sampler, self.mp_trainer.lg_loss_scale
            state = optimizer_state.to_save(*with_loop)
            checkpoint.save_state(state, self.out_dir / f"opt{self.done:06d}.pt")
            known = [self.average(rate) for rate in self.ema_rate]
            averages.record(self.out_dir, known)
            for rate, params in zip(self.ema_rate, self.ema_params, strict=True):
                self._save_params(params, f"ema_{rate}_{self.done:06d}.pt")
            self._save_params(self.mp_trainer.master_params, path.name)
            logger.log(f"saved {path}{averages.young(known, self.done)}")
        self.health.note_save(str(path), self.done)
        dist_util.barrier()

    def _held(self) -> dict[str, list[th.Tensor]]:
        # What a checkpoint holds, {name: tensors}.
        return {
            "weights": list(self.mp_trainer.master_params),
            "averaged weights": [param for params in self.ema_params for param in params],
            "optimizer's moments": optimizer_state.moments_of(self.opt),
        }

    def _advice(self) -> str:
        other = ", or --precision fp32" if self.precision != "fp32" else ""
        other += f", or --{self.fp16_flag} False" if self.use_fp16 else ""
        return f"try a lower --lr than {self.lr:g}{other}"

    def _save_params(self, params: list[th.Tensor], name: str) -> None:
        checkpoint.save_state(self._state_of(params), self.out_dir / name)

    def _state_of(self, params: list[th.Tensor]) -> dict[str, th.Tensor]:
        return self.mp_trainer.master_params_to_state_dict(params)

    def _masters_of(self, state: dict[str, th.Tensor]) -> list[th.Tensor]:
        return self.mp_trainer.state_dict_to_master_params(state)
