"""What a training says at its start: from which weights, on what it learns, and for how long."""

from ..data.image_source import ImageSource
from ..runtime import dist_util, stop_requests
from .train_util import TrainLoop


def lines(loop: TrainLoop, unit: str, images: ImageSource | None) -> list[str]:
    """Return lines about the beginning, the data and the end of a training; on every rank.

    How many images there are was logged when they were opened.

    Args:
        loop: the training loop.
        unit: name of one example.
        images: images to learn from, which were opened; None: there is no end of examples.
    """
    weights = [_beginning(loop), f"arithmetic: {loop.precision}"]
    ranks = dist_util.world_size()
    share = f" ({loop.batch_size} on each of {ranks} processes)" if ranks > 1 else ""
    step = f"a step learns from {loop.global_batch} {unit}s{share}"
    if images is None:
        return [*weights, f"{step}, all new", _end(loop, 0)]
    sides = [f"images: {told}" for told in [images.told_sides()] if told]
    passes = len(images) / loop.global_batch
    step += f"; a pass over all {len(images)}: {passes:.3g} steps"
    return [*weights, *sides, step, _end(loop, passes)]


def _beginning(loop: TrainLoop) -> str:
    if loop.resume_checkpoint:
        return f"training on from {loop.resume_checkpoint}"
    if loop.init_checkpoint:
        return f"training from step 0 with the weights of {loop.init_checkpoint}"
    return "training from scratch"


def _end(loop: TrainLoop, steps_of_a_pass: float) -> str:
    saves, last = f"saves every {loop.save_interval} steps", loop.end_flags[-1]
    if not loop.max_steps and stop_requests.has_limit():
        return (
            f"ends within --time_limit, {saves} and at the end; no other end is set, and the same "
            "command goes on"
        )
    if not loop.max_steps:
        ways = " or ".join(f"--{flag}" for flag in loop.end_flags)
        return (
            f"no end is set ({ways} would set one), {saves}; Ctrl-C or SIGTERM ends it after the "
            "step at hand with a checkpoint, and the same command goes on"
        )
    flag = last if getattr(loop, last, loop.max_steps) == loop.max_steps else loop.end_flags[0]
    passes = f", {loop.max_steps / steps_of_a_pass:.3g} passes" if steps_of_a_pass else ""
    left = f", {loop.max_steps - loop.done} of them still to do" if loop.done else ""
    left += ", or within --time_limit before" * stop_requests.has_limit()
    return f"ends after {loop.max_steps} steps (--{flag}){passes}{left}; {saves} and at the end"
