"""Random draws: functions of the base seed, the purpose and the index alone."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from guided_diffusion.errors import UserError
from guided_diffusion.runtime import random_streams


def test_generators_differ_by_purpose_and_repeat():
    draws = {
        key: random_streams.generator(*key).integers(2**60)
        for key in [(0, 1), (1, 0), (0, 2), (0, 1, 1)]
    }
    assert len(set(draws.values())) == len(draws)
    assert all(
        random_streams.generator(*key).integers(2**60) == value for key, value in draws.items()
    )


def test_purposes_share_a_value_only_where_finished_runs_were_made_so():
    by_value = {}
    for name, stream in random_streams.Stream.__members__.items():
        by_value.setdefault(stream.value, []).append(name)
    shared = {value: len(names) for value, names in by_value.items() if len(names) > 1}
    assert shared == {0: 2, 1: 2, 2: 2, 3: 2, 4: 2, 7: 2, 8: 2, 20: 3, 21: 2}


def test_a_stream_is_a_number_of_numpys_seed_sequence():
    found = random_streams.generator(5, random_streams.Stream.DROPOUT, 7).integers(2**60)
    expected = np.random.Generator(np.random.PCG64([5, 5, 7])).integers(2**60)
    assert found == expected


def test_a_negative_seed_is_a_user_error():
    with pytest.raises(UserError, match="seed: expected 0 or above, got -1"):
        random_streams.generator(-1, random_streams.Stream.DROPOUT)


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=6, unique=True),
    st.integers(1, 6),
    st.integers(1, 3),
)
def test_noise_of_an_image_does_not_depend_on_its_batch(indices, batch_size, draws):
    alone = {i: random_streams.ImageNoise(7, [i]) for i in indices}
    parts = [indices[k : k + batch_size] for k in range(0, len(indices), batch_size)]
    for part in parts:
        together = random_streams.ImageNoise(7, part)
        for _ in range(draws):
            found = together(torch.zeros(len(part), 2, 3))
            expected = torch.cat([alone[i].draw((2, 3)) for i in part])
            assert torch.equal(found, expected)


def test_noise_follows_dtype_seed_and_is_standard_normal():
    x = torch.zeros(2, 3, 64, 64, dtype=torch.float64)
    noise = random_streams.ImageNoise(0, [0, 1])(x)
    assert noise.dtype == torch.float64 and noise.shape == x.shape
    assert not torch.equal(noise[0], noise[1])
    assert not torch.equal(noise[:1], random_streams.ImageNoise(1, [0])(x[:1]))
    assert not torch.equal(
        noise[:1], random_streams.ImageNoise(0, [0], random_streams.Stream.ENLARGING_NOISE)(x[:1])
    )
    assert abs(noise.mean()) < 0.03 and abs(noise.std() - 1) < 0.03


def test_noise_generators_take_numpy_indices():
    expected = random_streams.ImageNoise(0, [3]).draw((2,))
    assert torch.equal(random_streams.ImageNoise(0, np.array([3])).draw((2,)), expected)
