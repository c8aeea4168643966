"""Features of a batch of images: [N, C, H, W] in, one float64 number per image out.

Pure functions of their input, on its device. `reference_magnitude` is the published feature.
"""

import torch as th

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
LOWEST, HIGHEST = -10, 9  # bins of the published slices, -1 and 0 excepted


def grey(images: th.Tensor) -> th.Tensor:
    """Return luma [N, H, W] float64 of colour images; the channel itself of one-channel ones.

    Raises:
        ValueError: unless images are [N, C, H, W] with 1, 3 or 4 channels.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3, 4):
        raise ValueError(f"expected [N, 1, 3 or 4, H, W], got {tuple(images.shape)}")
    images = images.double()
    if images.shape[1] == 1:
        return images[:, 0]
    return sum(weight * images[:, channel] for channel, weight in enumerate(LUMA))


def reference_magnitude(images: th.Tensor) -> th.Tensor:
    """Return the published "high frequency" of each image, [N] float64.

    The published code prepares a high-pass filter, but reads the spectrum before it: the mean
    magnitude of the centred 2-D spectrum of luma, along the centre row, over the 18 bins
    -10..-2 and 1..9 around the centre. These are low horizontal frequencies. In that row the
    vertical frequency is 0, so a 1-D transform of the column sums gives the same numbers. Images
    narrower than 20 pixels have fewer bins; the mean is then over those they have.

    Args:
        images: [N, C, H, W], in [-1, 1] when clean.

    Reference:
        ADD's `image_fourier_trans`.
    """
    columns = grey(images).sum(dim=1)  # [N, W]
    spectrum = th.fft.fftshift(th.fft.fft(columns).abs(), dim=-1)
    centre = columns.shape[-1] // 2
    bins = [centre + k for k in range(LOWEST, HIGHEST + 1) if k not in (-1, 0)]
    return spectrum[:, [b for b in bins if 0 <= b < columns.shape[-1]]].mean(dim=-1)
