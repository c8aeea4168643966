"""Every number that a command takes has bounds: what makes no sense is refused by its flag."""

import dataclasses
import math

import pytest
from support.parsers import COMMANDS

from guided_diffusion.config.network_settings import ModelSettings
from guided_diffusion.errors import ArgumentError
from guided_diffusion.training.settings import DenoisingSettings

NUMBERS = sorted(
    {
        (group, field.name)
        for command in COMMANDS.values()
        for group in command.groups
        for field in dataclasses.fields(group)
        if type(field.default) in (int, float)
    },
    key=lambda place: (place[0].__name__, place[1]),
)
ABSURD = [math.inf, -math.inf, math.nan, 1e300, -1e300, 10**30, -(10**30), 10**400]


def test_all_groups_are_seen():
    assert len(NUMBERS) > 80


@pytest.mark.parametrize(("group", "name"), NUMBERS, ids=lambda x: getattr(x, "__name__", x))
def test_a_number_is_bounded_on_both_sides(group, name):
    field = next(field for field in dataclasses.fields(group) if field.name == name)
    limits = field.metadata["limits"]
    bounded = math.isfinite(limits.minimum) and math.isfinite(limits.maximum)
    assert bounded or field.metadata["choices"]
    for value in ABSURD:
        with pytest.raises(ArgumentError, match=f"^{name}: expected "):
            group(**{name: value})


@pytest.mark.parametrize(
    ("group", "values", "expected"),
    [
        (ModelSettings, {"dropout": 1.0}, "a number from 0 to 1, 1 excluded, got 1.0"),
        (ModelSettings, {"dropout": 1.5}, "a number from 0 to 1, got 1.5"),
        (ModelSettings, {"image_size": 10**6}, "a whole number from 1 to 16384, got 1000000"),
        (ModelSettings, {"num_channels": 10**5}, "a whole number from -16384 to 16384, got 100000"),
        (DenoisingSettings, {"weight_decay": 1e300}, "a number from 0 to 1000, got 1e+300"),
        (DenoisingSettings, {"lr": 1e7}, "a number from 0 to 1000000, got 10000000.0"),
        (DenoisingSettings, {"lr": -1e-4}, "a number of at least 0, got -0.0001"),
        (DenoisingSettings, {"fp16_scale_growth": 2.0}, "a number from 0 to 1, got 2.0"),
        (DenoisingSettings, {"max_steps": 2**31}, "a whole number from 0 to 2147483647, got 2147"),
        (
            DenoisingSettings,
            {"microbatch": 2**31},
            "a whole number from 1 to 2147483647 or -1, got 2147483648",
        ),
    ],
)
def test_the_bound_that_is_broken_is_told(group, values, expected):
    with pytest.raises(ArgumentError) as refused:
        group(**values)
    assert refused.value.problem.startswith(f"expected {expected}")


def test_values_of_upstreams_commands_stay_valid():
    values = {"lr": 1e-4, "weight_decay": 0.05, "batch_size": 256, "fp16_scale_growth": 1e-3}
    DenoisingSettings(**values, lr_anneal_steps=500000, save_interval=10000)
    ModelSettings(image_size=512, num_channels=256, dropout=0.3, num_head_channels=64)
