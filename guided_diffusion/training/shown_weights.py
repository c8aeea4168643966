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
    if average.share(loop.done) <= RAW_ABOVE:
        with loop.averaged_weights() as model:
            yield model
        return
    logger.log(
        f"samples of step {loop.done} show the weights without averaging: of the average of rate "
        f"{average.rate}, {average.told(loop.done)}"
    )
    training = loop.model.training
    loop.model.eval()
    try:
        yield loop.model
    finally:
        loop.model.train(training)
