"""Walks over many timesteps: every loop is a consumer of one generator, `Trajectories._walk`.

Sampling walks go from t = T - 1 down to 0, encoding walks from t = 0 up to T - 1. The
`*_progressive` methods are generators that yield, after each move, the dict of the one-step
sampler (`sample` and `pred_xstart`); the `*_loop` methods return only the last `sample`. Nothing
is computed before the first item is asked for.

Depths: a partial walk is given by `diffway_start` and `diffway_end`, which cut the list of
timesteps 0 .. T - 1 as a Python slice does. `amount`, the number of images in a sequence, is in
the signatures because the published code carries it along; it has no effect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import torch

from ..data.image_features import reference_magnitude
from .moves import Sampler
from .reverse_process import CondFn, DenoisedFn, Model, ModelKwargs
from .signatures import known_or_given

Move = Callable[[torch.Tensor, torch.Tensor], dict[str, torch.Tensor]]
Walk = Iterator[dict[str, torch.Tensor]]
Device = torch.device | str | None


def _with_progress(timesteps: Sequence[int], progress: bool) -> Iterable[int]:
    if not progress:
        return timesteps
    from tqdm.auto import tqdm  # only a run that shows a bar needs it

    return tqdm(timesteps)


def _device_of(model: Model, given: Device, start: torch.Tensor | None) -> torch.device:
    """Where to sample: as asked, else with the model, else (for a plain function) the start."""
    if given is not None:
        return torch.device(given)
    parameters = getattr(model, "parameters", tuple)
    for parameter in parameters():
        return parameter.device
    return torch.device("cpu") if start is None else start.device


def _starting_noise(
    model: Model, shape: Sequence[int], noise: torch.Tensor | None, device: Device
) -> torch.Tensor:
    """The given noise, whatever the shape; or a draw from torch's default generator."""
    device = _device_of(model, device, noise)
    return torch.randn(*shape, device=device) if noise is None else noise.to(device)


def _last_sample(start: torch.Tensor, walk: Walk) -> torch.Tensor:
    """Where a walk ends; its start if it has no move."""
    for out in walk:
        start = out["sample"]
    return start


class Trajectories(Sampler):
    """Full and partial walks in both directions; see `ReverseProcess` for arguments."""

    def _walk(self, move: Move, x: torch.Tensor, timesteps: Sequence[int], progress: bool) -> Walk:
        for index in _with_progress(timesteps, progress):
            t = torch.full((x.shape[0],), index, dtype=torch.int64, device=x.device)
            with torch.no_grad():
                out = move(x, t)
            yield out  # outside of no_grad, which is the consumer's to choose
            x = out["sample"]

    def p_sample_loop(
        self,
        model: Model,
        shape: Sequence[int],
        noise: torch.Tensor | None = None,
        clip_denoised: bool = True,
        denoised_fn: DenoisedFn = None,
        cond_fn: CondFn = None,
        model_kwargs: ModelKwargs = None,
        device: Device = None,
        progress: bool = False,
    ) -> torch.Tensor:
        """Sample images by ancestral sampling.

        Args:
            model: the network.
            shape: (N, C, H, W) of the noise that is drawn.
            noise: states to start from, whose shape then counts; drawn if None.
            clip_denoised: limit each implied clean image to [-1, 1].
            denoised_fn: edits each implied clean image before it is limited.
            cond_fn: gradient of log p(y | x) to steer by.
            model_kwargs: further keywords of the network and of cond_fn.
            device: where to sample; by default where the model is.
            progress: show a progress bar.

        Returns:
            Images of the given shape, or of the shape of noise where it is given.
        """
        start = _starting_noise(model, shape, noise, device)
        walk = self.p_sample_loop_progressive(
            model,
            shape,
            noise=start,
            clip_denoised=clip_denoised,
            denoised_fn=denoised_fn,
            model_kwargs=model_kwargs,
            device=device,
            progress=progress,
            **known_or_given(self.p_sample_loop_progressive, cond_fn=cond_fn),
        )
        return _last_sample(start, walk)

    def p_sample_loop_progressive(
        self,
        model: Model,
        shape: Sequence[int],
        noise: torch.Tensor | None = None,
        clip_denoised: bool = True,
        denoised_fn: DenoisedFn = None,
        cond_fn: CondFn = None,
        model_kwargs: ModelKwargs = None,
        device: Device = None,
        progress: bool = False,
    ) -> Walk:
        """`p_sample_loop` as a generator of the dicts of `p_sample`."""
        start = _starting_noise(model, shape, noise, device)
        move = partial(
            self.p_sample,
            model,
            clip_denoised=clip_denoised,
            denoised_fn=denoised_fn,
            model_kwargs=model_kwargs,
            **known_or_given(self.p_sample, cond_fn=cond_fn),
        )
        yield from self._walk(move, start, range(self.num_timesteps)[::-1], progress)

    def ddim_sample_loop(
        self,
        model: Model,
        shape: Sequence[int],
        noise: torch.Tensor | None = None,
        clip_denoised: bool = True,
        denoised_fn: DenoisedFn = None,
        cond_fn: CondFn = None,
        model_kwargs: ModelKwargs = None,
        device: Device = None,
        progress: bool = False,
        eta: float = 0.0,
        amount: int | None = None,
        diffway_end: int | None = None,
    ) -> torch.Tensor:
        """Sample images with DDIM, from pure noise or from a given depth.

        Args:
            model: the network.
            shape: (N, C, H, W).
            noise: states to start from, at the level of timestep `diffway_end` - 1; drawn
                if None.
            clip_denoised: limit each implied clean image to [-1, 1].
            denoised_fn: edits each implied clean image before it is limited.
            cond_fn: gradient of log p(y | x) to steer by.
            model_kwargs: further keywords of the network and of cond_fn.
            device: where to sample; by default where the model is.
            progress: show a progress bar.
            eta: share of fresh noise; 0 is deterministic.
            amount: no effect.
            diffway_end: depth to start from, i.e. run t = `diffway_end` - 1 .. 0; by default T.

        Returns:
            Images of the given shape, or of the shape of noise where it is given.
        """
        start = _starting_noise(model, shape, noise, device)
        walk = self.ddim_sample_loop_progressive(
            model,
            shape,
            noise=start,
            clip_denoised=clip_denoised,
            denoised_fn=denoised_fn,
            model_kwargs=model_kwargs,
            device=device,
            progress=progress,
            eta=eta,
            **known_or_given(
                self.ddim_sample_loop_progressive,
                cond_fn=cond_fn,
                amount=amount,
                diffway_end=diffway_end,
            ),
        )
        return _last_sample(start, walk)

    def ddim_sample_loop_progressive(
        self,
        model: Model,
        shape: Sequence[int],
        noise: torch.Tensor | None = None,
        clip_denoised: bool = True,
        denoised_fn: DenoisedFn = None,
        cond_fn: CondFn = None,
        model_kwargs: ModelKwargs = None,
        device: Device = None,
        progress: bool = False,
        eta: float = 0.0,
        amount: int | None = None,
        diffway_end: int | None = None,
    ) -> Walk:
        """`ddim_sample_loop` as a generator of the dicts of `ddim_sample`."""
        start = _starting_noise(model, shape, noise, device)
        move = partial(
            self.ddim_sample,
            model,
            clip_denoised=clip_denoised,
            denoised_fn=denoised_fn,
            model_kwargs=model_kwargs,
            **known_or_given(self.ddim_sample, cond_fn=cond_fn),
            eta=eta,
        )
        timesteps = range(self.num_timesteps)[:diffway_end][::-1]
        yield from self._walk(move, start, timesteps, progress)

    def ddim_reverse_sample_loop(
        self,
        model: Model,
        image: torch.Tensor,
        clip_denoised: bool = True,
        denoised_fn: DenoisedFn = None,
        cond_fn: CondFn = None,
        model_kwargs: ModelKwargs = None,
        device: Device = None,
        progress: bool = False,
        eta: float = 0.0,
        amount: int | None = None,
        diffway_start: int | None = None,
        diffway_end: int | None = None,
    ) -> torch.Tensor:
        """Encode images towards noise with DDIM run backwards.

        As published, the clean image is read at level alpha_bar_0 and the result lies one
        level above the one at which `ddim_sample_loop` reads it.

        Args:
            model: the network.
            image: [N, C, H, W] in [-1, 1], or states that an earlier walk reached.
            clip_denoised: limit each implied clean image to [-1, 1].
            denoised_fn: edits each implied clean image before it is limited.
            cond_fn: gradient of log p(y | x) to steer by.
            model_kwargs: further keywords of the network and of cond_fn.
            device: where to run; by default where the model is.
            progress: show a progress bar.
            eta: must be 0.
            amount: no effect.
            diffway_start: depth at which `image` is, i.e. the first timestep; by default 0.
            diffway_end: depth to reach, i.e. one past the last timestep; by default T.

        Returns:
            States in the shape of image; the image itself if there is no move to make.

        Raises:
            ValueError: if eta is not 0.
        """
        start = image.to(_device_of(model, device, image))
        depths = {"amount": amount, "diffway_start": diffway_start, "diffway_end": diffway_end}
        walk = self.ddim_reverse_sample_loop_progressive(
            model,
            start,
            clip_denoised=clip_denoised,
            denoised_fn=denoised_fn,
            model_kwargs=model_kwargs,
            device=device,
            progress=progress,
            eta=eta,
            **known_or_given(self.ddim_reverse_sample_loop_progressive, cond_fn=cond_fn, **depths),
        )
        return _last_sample(start, walk)

    def ddim_reverse_sample_loop_progressive(
        self,
        model: Model,
        image: torch.Tensor,
        clip_denoised: bool = True,
        denoised_fn: DenoisedFn = None,
        cond_fn: CondFn = None,
        model_kwargs: ModelKwargs = None,
        device: Device = None,
        progress: bool = False,
        eta: float = 0.0,
        amount: int | None = None,
        diffway_start: int | None = None,
        diffway_end: int | None = None,
    ) -> Walk:
        """`ddim_reverse_sample_loop` as a generator of the dicts of `ddim_reverse_sample`."""
        start = image.to(_device_of(model, device, image))
        move = partial(
            self.ddim_reverse_sample,
            model,
            clip_denoised=clip_denoised,
            denoised_fn=denoised_fn,
            model_kwargs=model_kwargs,
            **known_or_given(self.ddim_reverse_sample, cond_fn=cond_fn),
            eta=eta,
        )
        timesteps = range(self.num_timesteps)[diffway_start:diffway_end]
        yield from self._walk(move, start, timesteps, progress)

    def fourier_frequency_list_loop(
        self,
        model: Model,
        image: torch.Tensor,
        clip_denoised: bool = True,
        denoised_fn: DenoisedFn = None,
        cond_fn: CondFn = None,
        model_kwargs: ModelKwargs = None,
        device: Device = None,
        progress: bool = False,
        eta: float = 0.0,
    ) -> list[float]:
        """Encode fully and measure the published spectral magnitude after each move.

        As published, only the first image of the batch is measured, and the list is turned round,
        ready for `fourier_trans.get_adaptive_list`. For arguments see `ddim_reverse_sample_loop`.

        Returns:
            T magnitudes, noisiest state first: entry k was measured after T - k moves.

        Reference:
            ADD's `fourier_frequency_list_loop`.
        """
        walk = self.fourier_frequency_list_progressive(
            model, image, clip_denoised, denoised_fn, cond_fn, model_kwargs, device, progress, eta
        )
        # One copy to the host at the end: a float per move would wait for the device each time.
        magnitudes = torch.cat([reference_magnitude(out["sample"][:1]) for out in walk])
        return magnitudes.flip(0).tolist()

    def fourier_frequency_list_progressive(
        self,
        model: Model,
        image: torch.Tensor,
        clip_denoised: bool = True,
        denoised_fn: DenoisedFn = None,
        cond_fn: CondFn = None,
        model_kwargs: ModelKwargs = None,
        device: Device = None,
        progress: bool = False,
        eta: float = 0.0,
    ) -> Walk:
        """The states that `fourier_frequency_list_loop` measures: the full encoding walk."""
        yield from self.ddim_reverse_sample_loop_progressive(
            model, image, clip_denoised, denoised_fn, cond_fn, model_kwargs, device, progress, eta
        )
