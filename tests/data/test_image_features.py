import numpy as np
import pytest
import torch
from support.reference_images import blurred_noise, reference_add

from guided_diffusion.data.image_features import (
    FEATURES,
    grey,
    radial_log_power,
    reference_magnitude,
)
from guided_diffusion.fourier_trans import image_fourier_trans


@pytest.mark.parametrize(("seed", "size"), [(31, 32), (32, 64), (33, 256)])
def test_reference_magnitudes(seed, size):
    expected = reference_add()[f"image_fourier_trans/{seed}/{size}"]
    assert image_fourier_trans(blurred_noise(seed, size)) == pytest.approx(
        float(expected), rel=1e-5
    )


def test_is_the_mean_over_18_bins_of_the_centre_row_of_a_two_dimensional_spectrum():
    image = blurred_noise(3, 48)
    spectrum = np.abs(np.fft.fftshift(np.fft.fft2(grey(image)[0].numpy())))
    row = spectrum[24]
    expected = np.mean([row[24 + k] for k in [*range(-10, -1), *range(1, 10)]])
    assert reference_magnitude(image).item() == pytest.approx(expected, rel=1e-12)
    tile = np.moveaxis(image[0].numpy(), 0, -1)  # as a picture is read
    assert image_fourier_trans(tile) == pytest.approx(image_fourier_trans(image), rel=1e-12)


def test_measures_each_image_of_a_batch():
    batch = torch.cat([blurred_noise(seed, 32) for seed in (1, 2, 3)])
    alone = torch.cat([reference_magnitude(image[None]) for image in batch])
    assert torch.equal(reference_magnitude(batch), alone)


def test_a_horizontal_wave_is_seen_and_a_vertical_one_is_not():
    wave = torch.sin(2 * torch.pi * 5 * torch.arange(32) / 32)
    horizontal = wave.expand(1, 1, 32, 32)
    assert reference_magnitude(horizontal).item() > 50
    assert reference_magnitude(horizontal.mT).item() < 1e-4


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [4, 16, 19])
def test_small_and_grey_images_have_a_magnitude(channels, size):
    value = reference_magnitude(torch.rand(2, channels, size, size))
    assert value.shape == (2,)
    assert torch.isfinite(value).all()


def test_rings_hold_the_power_of_their_frequencies_in_every_direction():
    wave = torch.sin(2 * torch.pi * 5 * torch.arange(32) / 32).expand(1, 1, 32, 32)
    across, along = radial_log_power(wave), radial_log_power(wave.mT.contiguous())
    assert across.shape == (1, 16)
    assert across.argmax() == along.argmax() == 4  # the ring of 5 cycles
    torch.testing.assert_close(across, along)


def test_the_power_of_white_noise_is_flat_and_brightness_is_not_seen():
    noise = torch.randn(64, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    power = radial_log_power(noise)
    means = power.exp().mean(0) / 32**2  # of unit variance per pixel
    assert (means - 1).abs().max() < 0.1
    torch.testing.assert_close(radial_log_power(noise + 0.5), power)


@pytest.mark.parametrize("name", FEATURES)
@pytest.mark.parametrize("shape", [(2, 1, 16, 16), (3, 3, 9, 14), (1, 4, 64, 64)])
def test_a_feature_is_a_finite_vector_per_image_and_knows_no_batch(name, shape):
    images = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    found = FEATURES[name](images)
    assert found.ndim == 2 and len(found) == len(images) and torch.isfinite(found).all()
    alone = torch.cat([FEATURES[name](image[None]) for image in images])
    torch.testing.assert_close(found, alone, rtol=1e-12, atol=0)


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(3, 8, 8\)"):
        reference_magnitude(torch.zeros(3, 8, 8))
