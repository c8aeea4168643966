"""Soft labels by the step in a sequence: the share of each domain in an image."""

from collections.abc import Sequence


def over_stages(
    shares: tuple[float, float], source: str, target: str, stages: Sequence[str]
) -> dict[str, float]:
    """Return {stage: share} of a soft label between two of several stages; 0 for the others.

    Stages between source and target have share 0 too: the label says how far the image is on its
    way, not which stage it looks like.
    """
    return {**dict.fromkeys(stages, 0.0), source: shares[0], target: shares[1]}


def soft_label(step: int, amount: int) -> tuple[float, float]:
    """Return (share of the source, share of the target) of image `step` of `amount`; sum 1.

    Step 0 is the source image itself, step `amount` the end of the sequence.

    Raises:
        ValueError: unless 0 <= step <= amount and amount >= 1.

    Reference:
        ADD, figure 1: image i of n carries [1 - i/n, i/n].
    """
    if amount < 1 or not 0 <= step <= amount:
        raise ValueError(f"expected 0 <= step <= amount >= 1, got step {step}, amount {amount}")
    return (amount - step) / amount, step / amount
