"""Every checkpoint that guided-diffusion released fits the network that its flags build."""

import argparse
import gzip
import inspect
import json

import pytest
import torch
from support.reference_weights import REFERENCE

RELEASES = json.loads(gzip.decompress((REFERENCE / "release_checkpoints.json.gz").read_bytes()))


def build_from_flags(flags):
    from guided_diffusion import script_util

    if "--large_size" in flags:
        create, defaults = script_util.sr_create_model, script_util.sr_model_and_diffusion_defaults
    elif "--num_channels" in flags:
        create, defaults = script_util.create_model, script_util.model_and_diffusion_defaults
    else:
        create, defaults = script_util.create_classifier, script_util.classifier_defaults
    parser = argparse.ArgumentParser()
    # The readme gives classifiers together with flags of the diffusion model they guide.
    script_util.add_dict_to_argparser(parser, {**script_util.diffusion_defaults(), **defaults()})
    args = vars(parser.parse_args(flags.split()))
    wanted = inspect.signature(create).parameters
    with torch.device("meta"):
        return create(**{key: value for key, value in args.items() if key in wanted})


@pytest.mark.parametrize("name", RELEASES)
def test_keys_and_shapes_of_released_checkpoint(name):
    state = build_from_flags(RELEASES[name]["flags"]).state_dict()
    found = {key: list(value.shape) for key, value in state.items()}
    assert found == RELEASES[name]["state"]
    assert list(found) == list(RELEASES[name]["state"])
