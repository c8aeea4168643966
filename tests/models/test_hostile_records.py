"""An args.json of any values beside a model: the model it was, or one line; never another model."""

import json
import math

import hypothesis
import hypothesis.strategies as st
import pytest
import torch

from guided_diffusion.config.network_settings import ModelSettings
from guided_diffusion.config.settings import defaults
from guided_diffusion.diffusion.settings import ProcessSettings
from guided_diffusion.errors import UserError
from guided_diffusion.models import checkpoint, domains
from guided_diffusion.models.script_util import build

FLAGS = {
    "image_size": 16,
    "num_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": "1",
    "attention_resolutions": "16",
    "num_heads": 2,
    "diffusion_steps": 40,
}
KNOWN = defaults(ModelSettings, ProcessSettings) | FLAGS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    groups = (
        group(**{name: KNOWN[name] for name in defaults(group)})
        for group in (ModelSettings, ProcessSettings)
    )
    model, _ = build(*groups)
    checkpoint.save_state(model.state_dict(), folder / "model000001.pt")
    return folder


def load(folder, args, script="image_train"):
    (folder / "args.json").write_text(json.dumps({"script": script, "args": args}))
    return domains.load_domain(folder)


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize(
    "value",
    [None, "False", "True", "16", [], [16], {}, {"a": [[]]}, math.nan, math.inf, -1, 10**30, 1e308]
    + [True, 0, 2.5, "", "1," * 3000, "9" * 5000, "ddim0", "\0", 1000, 2**31],
    ids=lambda value: repr(value)[:12],
)
def test_a_value_of_another_kind_is_refused_by_name_and_file(folder, name, value):
    default = KNOWN[name]
    try:
        domain = load(folder, FLAGS | {name: value})
    except UserError as error:
        assert "\n" not in error.report and len(error.report) < 10**4
        assert str(folder) in error.report
        return
    # What is taken is of the setting's own kind.
    same = type(value) is type(default) or (type(value), type(default)) == (int, float)
    assert same and domain.args[name] == value


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@hypothesis.settings(max_examples=60, suppress_health_check=list(hypothesis.HealthCheck))
@hypothesis.given(
    st.dictionaries(st.sampled_from(sorted(KNOWN)) | st.text(max_size=5), VALUES, max_size=4),
    st.just("image_train") | VALUES,
)
def test_any_record_gives_the_model_or_one_line(folder, args, script):
    try:
        domain = load(folder, FLAGS | args, script)
        assert isinstance(domain.model, torch.nn.Module)
    except UserError as error:
        assert "\n" not in error.report
