"""Features of a batch of images: [N, C, H, W] in, one float64 vector [N, K] per image out.

Pure functions of their input, on its device. `magnitude_bins` is the published feature before its
mean is taken, `reference_magnitude` that mean.
"""

from collections.abc import Callable

import torch as th

from ..runtime.execution import exact

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
LOWEST, HIGHEST = -10, 9  # published bins, without -1 and 0
EMPTY = 1e-6  # keeps the logarithm of a ring without power finite


def grey(images: th.Tensor) -> th.Tensor:
    """Return luma [N, H, W] float64 of colour images; the first channel of others.

    A second or fourth channel is opacity, which does not count.

    Raises:
        ValueError: unless images are [N, C, H, W] with 1 to 4 channels.
    """
    if images.ndim != 4 or not 1 <= images.shape[1] <= 4:
        raise ValueError(f"expected [N, 1 to 4, H, W], got {tuple(images.shape)}")
    images = images.to(exact(images.device)).double()
    if images.shape[1] < 3:
        return images[:, 0]
    red, green, blue = (weight * images[:, channel] for channel, weight in enumerate(LUMA))
    return red + green + blue


def reference_magnitude(images: th.Tensor) -> th.Tensor:
    """Return the published "high frequency" of images, [N] float64: the mean of their bins."""
    return magnitude_bins(images).mean(dim=-1)


def magnitude_bins(images: th.Tensor) -> th.Tensor:
    """Return the bins of the published "high frequency" of each image, [N, 18] float64.

    The published code prepares a high-pass filter, but reads the spectrum before it: the
    magnitude of the centred 2-D spectrum of luma, along the centre row, at the 18 bins
    -10..-2 and 1..9 around the centre. These are low horizontal frequencies. In that row the
    vertical frequency is 0, so a 1-D transform of the column sums gives the same numbers. Images
    narrower than 20 pixels have fewer bins.

    Args:
        images: [N, C, H, W], in [-1, 1] when clean.

    Reference:
        ADD's `image_fourier_trans`.
    """
    columns = grey(images).sum(dim=1)  # [N, W]
    spectrum = th.fft.fftshift(th.fft.fft(columns).abs(), dim=-1)
    centre = columns.shape[-1] // 2
    bins = [centre + k for k in range(LOWEST, HIGHEST + 1) if k not in (-1, 0)]
    return spectrum[:, [b for b in bins if 0 <= b < columns.shape[-1]]]


def radial_log_power(images: th.Tensor) -> th.Tensor:
    """Return the log of the power of luma, averaged over rings of the spectrum, [N, K] float64.

    Ring k holds the frequencies of k - 1/2 to k + 1/2 cycles per image side, in every direction;
    k runs from 1 to half of the shorter side, so that brightness (k = 0) and the corners are out.

    Args:
        images: [N, C, H, W], in [-1, 1] when clean.

    Raises:
        ValueError: for images of less than 2 pixels a side.
    """
    luma = grey(images)
    height, width = luma.shape[-2:]
    if min(height, width) < 2:
        raise ValueError(f"expected at least 2 pixels a side, got {height} x {width}")
    axes = [th.fft.fftfreq(side, 1 / side, device=luma.device) for side in (height, width)]
    ring = th.hypot(*th.meshgrid(*axes, indexing="ij")).round().long().flatten()  # [H * W]
    power = th.fft.fft2(luma).abs().square().flatten(1)  # [N, H * W]
    rings = int(ring.max()) + 1
    total = power.new_zeros(len(power), rings).index_add_(1, ring, power)
    mean = total / th.bincount(ring, minlength=rings).clamp(min=1)
    kept = mean[:, 1 : min(height, width) // 2 + 1]
    return th.log(kept + EMPTY)


# Choices of `--depth_feature`.
FEATURES: dict[str, Callable[[th.Tensor], th.Tensor]] = {
    "magnitude": magnitude_bins,
    "power": radial_log_power,
}
