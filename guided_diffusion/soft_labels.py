"""From the place in a sequence to a soft label: how much of each domain an image shows."""


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
