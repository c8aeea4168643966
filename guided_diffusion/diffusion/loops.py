"""Walks over many timesteps: sampling from t = T - 1 down to 0, encoding from t = 0 up to T - 1.

The `*_progressive` methods are generators that yield, after each move, the dict of the one-step
sampler (`sample` and `pred_xstart`). Nothing is computed before the first item is asked for. Each
has a twin of the same arguments, the `*_loop`, that runs it and returns what is left at its end.

Depths: a partial walk is given by `diffway_start` and `diffway_end`, which cut the list of
timesteps 0 .. T - 1 as a Python slice does. `amount`, the number of images in a sequence, is in
the signatures because the published code carries it along; it has no effect.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from ..data.image_features import reference_magnitude
from .moves import Sampler
from .reverse_process import CondFn, DenoisedFn, Model, ModelKwargs
from .signatures import known_or_given

Walk = Iterator[dict[str, Tensor]]
Device = torch.device | str | None
P = ParamSpec("P")
T = TypeVar("T")
Finish = Callable[[Any, Tensor, Walk], T]


def _starting_states(
    model: Model, given: Tensor | None, device: Device, shape: Sequence[int] = ()
) -> Tensor:
    """Return the given states, whatever the shape, or else noise from torch's generator.

    They are on the device that is asked for, else with the model, else (for a function) as given.
    """
    if device is None:
        elsewhere = torch.device("cpu") if given is None else given.device
        parameters = getattr(model, "parameters", tuple)
        device = next((parameter.device for parameter in parameters()), elsewhere)
    return torch.randn(*shape, device=device) if given is None else given.to(device)


def _twin_of(progressive: Callable[P, Walk]) -> Callable[[Finish[T]], Callable[P, T]]:
    """Turn a function of a walk into a method that takes the arguments of a progressive one.

    The method runs the progressive one of its process, which a subclass may have overridden without
    some of the optional arguments (see `signatures`). The decorated function gets the process, the
    states [N, ...] that the walk starts from, and the walk; its result is the method's.

    Args:
        progressive: generator method with parameters self, model, a shape or an image, and others
            that are handed on by name; the start is its `noise` or else its `image`.
    """
    published = inspect.signature(progressive)

    def decorate(finish: Finish[T]) -> Callable[P, T]:
        @functools.wraps(finish)
        def loop(*args: P.args, **kwargs: P.kwargs) -> T:
            bound = published.bind(*args, **kwargs)
            bound.apply_defaults()
            given = bound.arguments
            name, shape = "noise" if "noise" in given else "image", given.get("shape", ())
            start = _starting_states(given["model"], given[name], given["device"], shape)
            given[name] = start
            process, model, first, *rest = bound.args
            options = dict(zip(list(given)[3:], rest, strict=True))
            walk = getattr(process, progressive.__name__)
            return finish(process, start, walk(model, first, **known_or_given(walk, **options)))

        returned = finish.__annotations__["return"]
        loop.__annotations__ = {**progressive.__annotations__, "return": returned}
        vars(loop)["__signature__"] = published.replace(return_annotation=returned)
        return loop

    return decorate


def _last_sample(start: Tensor, walk: Walk) -> Tensor:
    """Return the states at the end of a walk; its start if it has no move."""
    for out in walk:
        start = out["sample"]
    return start


class Trajectories(Sampler):
    """A process with full and partial walks in both directions.

    For arguments of the class see `ReverseProcess`.
    """

    def _walk(
        self,
        move: Callable[..., dict[str, Tensor]],
        model: Model,
        x: Tensor,
        timesteps: Iterable[int],
        progress: bool,
        **options: Any,
    ) -> Walk:
        """Yield the result of each move, the last one's `sample` being the next one's states.

        Args:
            move: one-step sampler, of this class or of one that was written for an upstream.
            model: the network.
            x: states [N, C, ...] at the first timestep.
            timesteps: timestep of each move.
            progress: show a progress bar.
            **options: further arguments of the move; left out if None and not known to it.
        """
        if progress:
            from tqdm.auto import tqdm  # only a run that shows a bar needs it

            timesteps = tqdm(timesteps)
        options = known_or_given(move, **options)
        for index in timesteps:
            t = torch.full((x.shape[0],), index, dtype=torch.int64, device=x.device)
            with torch.no_grad():
                out = move(model, x, t, **options)
            yield out  # outside of no_grad, which is the consumer's to choose
            x = out["sample"]

    def p_sample_loop_progressive(
        self,
        model: Model,
        shape: Sequence[int],
        noise: Tensor | None = None,
        clip_denoised: bool = True,
        denoised_fn: DenoisedFn = None,
        cond_fn: CondFn = None,
        model_kwargs: ModelKwargs = None,
        device: Device = None,
        progress: bool = False,
    ) -> Walk:
        """Yield the dicts of `p_sample` along `p_sample_loop`; for arguments see there."""
        yield from self._walk(
            self.p_sample,
            model,
            _starting_states(model, noise, device, shape),
            range(self.num_timesteps)[::-1],
            progress,
            clip_denoised=clip_denoised,
            denoised_fn=denoised_fn,
            cond_fn=cond_fn,
            model_kwargs=model_kwargs,
        )

    @_twin_of(p_sample_loop_progressive)
    def p_sample_loop(self, start: Tensor, walk: Walk) -> Tensor:
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
        return _last_sample(start, walk)

    def ddim_sample_loop_progressive(
        self,
        model: Model,
        shape: Sequence[int],
        noise: Tensor | None = None,
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
        """Yield the dicts of `ddim_sample` along `ddim_sample_loop`; for arguments see there."""
        yield from self._walk(
            self.ddim_sample,
            model,
            _starting_states(model, noise, device, shape),
            range(self.num_timesteps)[:diffway_end][::-1],
            progress,
            clip_denoised=clip_denoised,
            denoised_fn=denoised_fn,
            cond_fn=cond_fn,
            model_kwargs=model_kwargs,
            eta=eta,
        )

    @_twin_of(ddim_sample_loop_progressive)
    def ddim_sample_loop(self, start: Tensor, walk: Walk) -> Tensor:
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
        return _last_sample(start, walk)

    def ddim_reverse_sample_loop_progressive(
        self,
        model: Model,
        image: Tensor,
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
        """Yield the dicts of `ddim_reverse_sample` along `ddim_reverse_sample_loop`.

        For arguments see there.
        """
        yield from self._walk(
            self.ddim_reverse_sample,
            model,
            _starting_states(model, image, device),
            range(self.num_timesteps)[diffway_start:diffway_end],
            progress,
            clip_denoised=clip_denoised,
            denoised_fn=denoised_fn,
            cond_fn=cond_fn,
            model_kwargs=model_kwargs,
            eta=eta,
        )

    @_twin_of(ddim_reverse_sample_loop_progressive)
    def ddim_reverse_sample_loop(self, start: Tensor, walk: Walk) -> Tensor:
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
        return _last_sample(start, walk)

    def fourier_frequency_list_progressive(
        self,
        model: Model,
        image: Tensor,
        clip_denoised: bool = True,
        denoised_fn: DenoisedFn = None,
        cond_fn: CondFn = None,
        model_kwargs: ModelKwargs = None,
        device: Device = None,
        progress: bool = False,
        eta: float = 0.0,
    ) -> Walk:
        """Encode fully; yield what `fourier_frequency_list_loop` measures."""
        yield from self.ddim_reverse_sample_loop_progressive(
            model, image, clip_denoised, denoised_fn, cond_fn, model_kwargs, device, progress, eta
        )

    @_twin_of(fourier_frequency_list_progressive)
    def fourier_frequency_list_loop(self, start: Tensor, walk: Walk) -> list[float]:
        """Encode fully and measure the published spectral magnitude after each move.

        As published, only the first image of the batch is measured, and the list is turned round,
        ready for `fourier_trans.get_adaptive_list`. For arguments see `ddim_reverse_sample_loop`.

        Returns:
            T magnitudes, noisiest state first: entry k was measured after T - k moves.

        Reference:
            ADD's `fourier_frequency_list_loop`.
        """
        # One copy to the host at the end: a float per move would wait for the device each time.
        magnitudes = torch.cat([reference_magnitude(out["sample"][:1]) for out in walk])
        return magnitudes.flip(0).tolist()
