"""Walks over many timesteps: sampling from t = T - 1 down to 0, encoding from t = 0 up to T - 1.

The `*_progressive` methods are generators that yield, after each move, the dict of the one-step
sampler (`sample` and `pred_xstart`). Nothing is computed before the first item is asked for. The
`*_loop` method of the same arguments runs such a generator to its end and returns one result.

Depths: a partial walk is given by `diffway_start` and `diffway_end`, which cut the list of
timesteps 0 .. T - 1 as a Python slice does. So a walk between depth 0 and depth d makes d moves.

Arguments that methods share, besides the shared arguments of `reverse_process`:
    shape: (N, C, H, W) of the noise that is drawn.
    noise: states to start sampling from, in place of `shape`; drawn if None.
    image: [N, C, H, W] in [-1, 1], or states that an earlier walk reached.
    device: device to run on; by default the model's.
    progress: whether a progress bar is shown.
    eta: share of fresh noise; 0 is deterministic, and the only value for an encoding.
    amount: number of images in a sequence, as in the published code; it has no effect.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from ..data.image_features import reference_magnitude
from .moves import Sampler
from .reverse_process import CondFn, DenoisedFn, Kwargs, Model, Moments
from .signatures import accepted_or_given

Walk = Iterator[Moments]
Device = torch.device | str | None
P = ParamSpec("P")
T = TypeVar("T")
Finish = Callable[[Any, Tensor, Walk], T]

_MOVE_ARGUMENTS = ("clip_denoised", "denoised_fn", "cond_fn", "model_kwargs", "eta")


def _starting_states(given: Mapping[str, Any]) -> Tensor:
    """Return the states that a walk's arguments give, or else noise from torch's generator.

    Without a `device` among the arguments, they are moved to the device of the model's parameters;
    where a model has none, they stay where they are.
    """
    states, device = given["noise" if "noise" in given else "image"], given["device"]
    if device is None:
        elsewhere = torch.device("cpu") if states is None else states.device
        parameters = getattr(given["model"], "parameters", tuple)
        device = next((parameter.device for parameter in parameters()), elsewhere)
    return torch.randn(*given["shape"], device=device) if states is None else states.to(device)


def _loop_over(progressive: Callable[P, Walk]) -> Callable[[Finish[T]], Callable[P, T]]:
    """Make a `*_loop` method from a function that takes a walk to its end.

    The new method has the arguments of the progressive method, and calls the process's own method
    of that name, which a subclass may have overridden without some optional arguments (see
    `signatures`). The decorated function gets the process, the states [N, ...] that the walk
    starts from, and the walk; it returns the result of the new method.

    Args:
        progressive: generator method with parameters self, model, a shape or an image, and
            keywords; its walk starts from its `noise`, or else from its `image`.
    """
    signature = inspect.signature(progressive)

    def decorate(finish: Finish[T]) -> Callable[P, T]:
        @functools.wraps(finish)
        def loop(*args: P.args, **kwargs: P.kwargs) -> T:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            given = bound.arguments
            start = given["noise" if "noise" in given else "image"] = _starting_states(given)
            process, model, shape_or_image, *_ = given.values()
            walk = getattr(process, progressive.__name__)
            options = accepted_or_given(walk, **dict(list(given.items())[3:]))
            return finish(process, start, walk(model, shape_or_image, **options))

        returned = finish.__annotations__["return"]
        loop.__annotations__ = {**progressive.__annotations__, "return": returned}
        vars(loop)["__signature__"] = signature.replace(return_annotation=returned)
        return loop

    return decorate


def _last_sample(start: Tensor, walk: Walk) -> Tensor:
    """Return the states at the end of a walk, or its start if there is no move."""
    for out in walk:
        start = out["sample"]
    return start


class Trajectories(Sampler):
    """A process with full and partial walks in both directions."""

    def _walk(
        self, move: Callable[..., Moments], timesteps: Iterable[int], given: Mapping[str, Any]
    ) -> Walk:
        """Yield the result of each move; its `sample` is where the next move starts.

        Args:
            move: one-step sampler, of this class or of a subclass that was written for an upstream.
            timesteps: timestep of each move.
            given: arguments of a progressive method. The move gets `_MOVE_ARGUMENTS` of them; an
                argument that is None is left out if the move does not take it.
        """
        x = _starting_states(given)
        if given["progress"]:
            from tqdm.auto import tqdm  # only a run that shows a bar needs it

            timesteps = tqdm(timesteps)
        arguments = {key: given[key] for key in _MOVE_ARGUMENTS if key in given}
        options = accepted_or_given(move, **arguments)
        for index in timesteps:
            t = torch.full((x.shape[0],), index, dtype=torch.int64, device=x.device)
            with torch.no_grad():
                out = move(given["model"], x, t, **options)
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
        model_kwargs: Kwargs = None,
        device: Device = None,
        progress: bool = False,
    ) -> Walk:
        """Yield the dicts of `p_sample` along `p_sample_loop`."""
        return self._walk(self.p_sample, range(self.num_timesteps)[::-1], locals())

    @_loop_over(p_sample_loop_progressive)
    def p_sample_loop(self, start: Tensor, walk: Walk) -> Tensor:
        """Sample images by ancestral sampling.

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
        model_kwargs: Kwargs = None,
        device: Device = None,
        progress: bool = False,
        eta: float = 0.0,
        amount: int | None = None,
        diffway_end: int | None = None,
    ) -> Walk:
        """Yield the dicts of `ddim_sample` along `ddim_sample_loop`."""
        timesteps = range(self.num_timesteps)[:diffway_end][::-1]
        return self._walk(self.ddim_sample, timesteps, locals())

    @_loop_over(ddim_sample_loop_progressive)
    def ddim_sample_loop(self, start: Tensor, walk: Walk) -> Tensor:
        """Sample images with DDIM, from pure noise or from a given depth.

        Args:
            noise: states to start from, at the level of timestep `diffway_end` - 1; drawn if None.
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
        model_kwargs: Kwargs = None,
        device: Device = None,
        progress: bool = False,
        eta: float = 0.0,
        amount: int | None = None,
        diffway_start: int | None = None,
        diffway_end: int | None = None,
    ) -> Walk:
        """Yield the dicts of `ddim_reverse_sample` along `ddim_reverse_sample_loop`."""
        timesteps = range(self.num_timesteps)[diffway_start:diffway_end]
        return self._walk(self.ddim_reverse_sample, timesteps, locals())

    @_loop_over(ddim_reverse_sample_loop_progressive)
    def ddim_reverse_sample_loop(self, start: Tensor, walk: Walk) -> Tensor:
        """Encode images towards noise with DDIM run backwards.

        As published, the clean image is read at level alpha_bar_0, and the result lies one level
        above the level at which `ddim_sample_loop` reads it.

        Args:
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
        model_kwargs: Kwargs = None,
        device: Device = None,
        progress: bool = False,
        eta: float = 0.0,
    ) -> Walk:
        """Encode fully; yield the dicts of `ddim_reverse_sample`."""
        yield from self.ddim_reverse_sample_loop_progressive(
            model, image, clip_denoised, denoised_fn, cond_fn, model_kwargs, device, progress, eta
        )

    @_loop_over(fourier_frequency_list_progressive)
    def fourier_frequency_list_loop(self, start: Tensor, walk: Walk) -> list[float]:
        """Encode fully and measure the published spectral magnitude after each move.

        As published, only the first image of the batch is measured, and the list is reversed, as
        `fourier_trans.get_adaptive_list` expects it.

        Returns:
            T magnitudes, noisiest state first: entry k was measured after T - k moves.

        Reference: ADD's `fourier_frequency_list_loop`.
        """
        # One copy to the host at the end: a float per move would wait for the device each time.
        magnitudes = torch.cat([reference_magnitude(out["sample"][:1]) for out in walk])
        return magnitudes.flip(0).tolist()
