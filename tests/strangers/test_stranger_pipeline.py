"""ADD's script, call for call, against the numbers of the published code."""

import numpy as np
import pytest
from support.reference_images import blurred_noise, reference_add
from support.toy_domains import ReferenceSource, ReferenceTarget

from guided_diffusion.fourier_trans import get_adaptive_list, image_fourier_trans
from guided_diffusion.script_util import create_gaussian_diffusion


@pytest.mark.parametrize(
    ("case", "seed", "size", "respacing"),
    [("pipe1000", 32, 64, ""), ("pipe_respaced", 33, 128, "100")],
)
def test_the_published_pipeline_number_for_number(case, seed, size, respacing):
    expected = {key: values for key, values in reference_add().items() if key.startswith(case)}
    source, target = ReferenceSource(), ReferenceTarget()
    diffusion = create_gaussian_diffusion(
        steps=1000, learn_sigma=True, timestep_respacing=respacing
    )
    image, stride = blurred_noise(seed, size), 2 * (size // 32)
    magnitudes = diffusion.fourier_frequency_list_loop(source, image, clip_denoised=False)
    np.testing.assert_allclose(magnitudes, expected[f"{case}/magnitudes"], rtol=1e-4)

    amount = len(expected[f"{case}/depths"])
    depths = get_adaptive_list(magnitudes, amount)
    assert list(depths) == expected[f"{case}/depths"].tolist()

    latent, previous = image, 0
    for step, depth in enumerate(depths):
        latent = diffusion.ddim_reverse_sample_loop(
            source,
            latent,
            clip_denoised=False,
            amount=amount,
            diffway_start=previous,
            diffway_end=depth,
        )
        made = diffusion.ddim_sample_loop(
            target,
            image.shape,
            noise=latent,
            clip_denoised=False,
            amount=amount,
            diffway_end=depth,
        )
        previous = depth
        for found, name in ((latent, "latents"), (made, "targets")):
            wanted = expected[f"{case}/{name}_strided"][step]
            np.testing.assert_allclose(found[..., ::stride, ::stride], wanted, atol=1e-4)


def test_the_measure_of_one_state_is_that_of_the_list():
    diffusion = create_gaussian_diffusion(steps=1000, learn_sigma=True, timestep_respacing="10")
    source, image = ReferenceSource(), blurred_noise(3, 32)
    listed = diffusion.fourier_frequency_list_loop(source, image, clip_denoised=False)
    states = diffusion.ddim_reverse_sample_loop_progressive(source, image, clip_denoised=False)
    measured = [image_fourier_trans(out["sample"]) for out in states]
    assert isinstance(listed, list) and all(isinstance(value, float) for value in listed)
    assert listed == pytest.approx(measured[::-1], rel=1e-5)
    walk = diffusion.fourier_frequency_list_progressive(source, image, clip_denoised=False)
    assert [image_fourier_trans(out["sample"]) for out in walk] == pytest.approx(measured)


def test_the_list_is_overwritten_as_published():
    magnitudes = [9.0, 8.0, 7.9, 3.0, 2.0, 1.0]
    assert get_adaptive_list(magnitudes, 2) == [3, 4]  # looked for: 5 and 9
    assert magnitudes == [0, 0, 0, 0, 2, 1]
