"""The weights that samples of a running training show."""

import contextlib
from collections.abc import Iterator

import torch as th

from ..models.averages import RAW_ABOVE
from ..runtime import logger
from .train_util import TrainLoop


@contextlib.contextmanager
def shown_weights(loop: TrainLoop) -> Iterator[th.nn.Module]:
    """Give the model the weights to show, and eval mode, inside a `with` block.

    They are the (first) averaged ones, but its own while the average is mostly its start.
    """
    average = loop.average(loop.ema_rate[0])
    averaged = average.share(loop.done) <= RAW_ABOVE
    if not averaged:
        logger.log(
            f"samples of step {loop.done} show the weights without averaging: of the average of "
            f"rate {average.rate}, {average.told(loop.done)}"
        )
    with averaged_weights(loop) if averaged else _eval_mode(loop.model) as model:
        yield model


@contextlib.contextmanager
def averaged_weights(loop: TrainLoop) -> Iterator[th.nn.Module]:
    """Give the model its (first) averaged weights, and eval mode, inside a `with` block."""
    own = {key: value.clone() for key, value in loop.model.state_dict().items()}
    loop.model.load_state_dict(loop._state_of(loop.ema_params[0]))
    try:
        with _eval_mode(loop.model) as model:
            yield model
    finally:
        loop.model.load_state_dict(own)


@contextlib.contextmanager
def _eval_mode(model: th.nn.Module) -> Iterator[th.nn.Module]:
    training = model.training
    model.eval()
    try:
        yield model
    finally:
        model.train(training)
