"""Checkpoints: found, loaded whole, refused by name; nothing that is loaded runs code."""

import json
import math

import pytest
import torch
from support.cli import snapshot
from support.payload import Payload
from support.reference_weights import draw, load_drawn_weights

from guided_diffusion.config.network_settings import (
    ClassifierSettings,
    ModelSettings,
    SuperResSettings,
)
from guided_diffusion.config.settings import defaults
from guided_diffusion.diffusion.settings import ProcessSettings
from guided_diffusion.errors import ArgumentError, UserError
from guided_diffusion.models import checkpoint, domains
from guided_diffusion.script_util import (
    classifier_defaults,
    create_classifier,
    create_model_and_diffusion,
    model_and_diffusion_defaults,
    sr_create_model_and_diffusion,
)
from guided_diffusion.unet import SuperResModel

FLAGS = {
    "image_size": 16,
    "num_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": "1,1",
    "attention_resolutions": "8",
    "num_heads": 2,
    "diffusion_steps": 40,
}
NETWORK = defaults(ModelSettings)


def network(**flags):
    model, _ = create_model_and_diffusion(**model_and_diffusion_defaults() | FLAGS | flags)
    return load_drawn_weights(model)


def save(path, scale=1.0, model=None):
    """Save drawn weights times a number, by which they are known again."""
    state = (model or network()).state_dict()
    checkpoint.save_state({key: value * scale for key, value in state.items()}, path)
    return path


def record(folder, **flags):
    args = model_and_diffusion_defaults() | FLAGS | flags | {"lr": 0.1, "data_dir": "x"}
    (folder / "args.json").write_text(json.dumps({"script": "image_train", "args": args}))


def scale_of(domain):
    weights = next(domain.model.parameters())
    return round((weights / next(network().parameters())).mean().item(), 3)


@pytest.fixture
def run_folder(tmp_path):
    """A training run of two steps, two averages and one averaged file too many."""
    folder = tmp_path / "polyp"
    folder.mkdir()
    record(folder)
    # A killed run: optimizer and averages of the step are there, the model is not.
    scales = {
        "model000900": 1,
        "ema_0.995_000900": 2,
        "model001000": 3,
        "ema_0.99_001000": 4,
        "ema_0.995_001000": 5,
        "ema_0.991_001000": 6,
        "ema_0.995_001100": 7,
    }
    for name, scale in scales.items():
        save(folder / f"{name}.pt", scale)
    return folder


def test_a_run_folder_gives_the_longest_average_of_its_newest_whole_step(run_folder):
    domain = domains.load_domain(run_folder)
    assert domain.origin == run_folder / "ema_0.995_001000.pt"
    assert scale_of(domain) == 5
    assert domain.label == "polyp"
    assert domain.args == defaults(ModelSettings, ProcessSettings) | FLAGS


@pytest.mark.parametrize(
    ("files", "newest"),
    [
        (["model000100", "model000200"], "model000200"),
        (["model999999", "model1000000"], "model1000000"),
        (["model000100", "ema_0.9_000100", "model000200"], "model000200"),
        (["ema_0.9999_999999", "ema_0.9999_1000000"], "ema_0.9999_1000000"),
        (["ema_0.5_000200", "ema_0.9999_000100"], "ema_0.5_000200"),
        (["ema_0.99_000100", "ema_1e-05_000100", "ema_0.999_000100"], "ema_0.999_000100"),
        (["model000100", "ema_1e-05_000100"], "ema_1e-05_000100"),
        (["model_best", "model000100", "modelx", "opt000300"], "model000100"),
        (["model000100", "ema_best_000100"], "model000100"),
        (["model000000"], "model000000"),
    ],
)
def test_the_newest_weights_are_known_by_number(tmp_path, files, newest):
    for name in files:
        (tmp_path / f"{name}.pt").touch()
    assert checkpoint.newest_weights(tmp_path).stem == newest


def test_a_folder_without_weights_is_refused(tmp_path):
    (tmp_path / "opt000100.pt").touch()
    with pytest.raises(UserError, match=f"{tmp_path}: expected a training run with modelNNNNNN.pt"):
        domains.load_domain(tmp_path)


def test_a_file_is_loaded_with_the_args_beside_it_and_ready_for_use(run_folder):
    domain = domains.load_domain(str(run_folder / "model000900.pt"), label="source")
    assert (scale_of(domain), domain.label) == (1, "source")
    assert domain.diffusion.num_timesteps == 40
    assert not domain.model.training and domain.device == torch.device("cpu")
    assert not any(p.requires_grad for p in domain.model.parameters())
    out = domain.model(draw(0, 1, 3, 16, 16), torch.tensor([3]))
    assert out.shape == (1, 3, 16, 16) and out.isfinite().all()


def test_given_flags_go_before_those_of_the_training(run_folder):
    domain = domains.load_domain(
        run_folder, {"timestep_respacing": "10"}, assumed={"image_size": 999}
    )
    assert domain.diffusion.num_timesteps == 10
    assert domain.args["timestep_respacing"] == "10" and domain.args["image_size"] == 16


def test_a_given_flag_that_leads_to_a_mistake_in_another_is_named(run_folder):
    args = FLAGS | {"channel_mult": "2,2", "num_head_channels": 64}
    (run_folder / "args.json").write_text(json.dumps({"script": "image_train", "args": args}))
    match = (
        r"num_head_channels: .* in .*args.json \(trained with --channel_mult '2,2', used with '1,1"
    )
    with pytest.raises(UserError, match=match):
        domains.load_domain(run_folder, {"channel_mult": "1,1"})


def test_a_model_of_another_kind_is_refused_and_loads_as_what_it_is(run_folder, tmp_path):
    with pytest.raises(UserError, match="those of image_train and of super_res_train$"):
        domains.load_domain(run_folder, kind=domains.SUPER_RES)
    args = {name: value for name, value in FLAGS.items() if name != "image_size"}
    known = defaults(SuperResSettings, ProcessSettings)
    args |= known | args | {"large_size": 16, "small_size": 8}
    model, _ = sr_create_model_and_diffusion(**args)
    save(tmp_path / "model000001.pt", model=load_drawn_weights(model))
    record = {"script": "super_res_train", "args": args}
    (tmp_path / "args.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="those of super_res_train and of image_train$"):
        domains.load_domain(tmp_path)
    with pytest.raises(UserError, match=r"and of classifier_train \(check --classifier_path\)$"):
        domains.load_domain(tmp_path, kind=domains.CLASSIFIER)
    domain = domains.load_domain(tmp_path, {"small_size": 4}, kind=domains.SUPER_RES)
    assert isinstance(domain.model, SuperResModel) and not domain.model.training
    assert domain.args == args | {"small_size": 4}


def test_a_file_without_args_is_built_from_assumed_flags_which_are_logged(tmp_path, recorder):
    path = save(tmp_path / "model.pt")
    domain = domains.load_domain(path, assumed=FLAGS | {"amount": 10})
    assert domain.args == defaults(ModelSettings, ProcessSettings) | FLAGS
    assert f"{path}: no args.json beside it" in recorder.text
    for part in ("--num_channels 32", "--channel_mult '1,1'", "--learn_sigma False"):
        assert part in recorder.text
    assert "amount" not in recorder.text


def test_a_file_with_args_assumes_nothing(run_folder, recorder):
    domains.load_domain(run_folder)
    (line,) = recorder.lines
    assert line == (
        f"{run_folder / 'ema_0.995_001000.pt'}: of this average, less than 1 % is still the "
        "weights with which it began"
    )


def test_a_record_of_a_command_that_made_images_says_nothing_of_the_weights(tmp_path, recorder):
    path, other = save(tmp_path / "model.pt"), {"num_channels": 64, "learn_sigma": True}
    record = {"script": "frequency_generating_m_samples", "args": other}
    (tmp_path / "args.json").write_text(json.dumps(record))
    domain = domains.load_domain(path, {"num_heads": 1}, assumed=FLAGS)
    assert (domain.args["num_channels"], domain.args["learn_sigma"]) == (32, False)
    assert f"{path}: no args.json beside it" in recorder.text
    assert "trained with" not in recorder.text


def test_broken_args_are_refused(run_folder):
    (run_folder / "args.json").write_text("{")
    with pytest.raises(UserError, match="args.json: expected JSON"):
        domains.load_domain(run_folder)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("image_size", "16", "a whole number of at least 1, got '16'"),
        ("image_size", None, "a whole number of at least 1, got None"),
        ("image_size", math.nan, "a whole number of at least 1, got nan"),
        ("num_channels", 32.0, "a whole number, got 32.0"),
        ("num_heads", [2], r"a whole number of at least 1, got \[2\]"),
        ("dropout", "0", "a number from 0 to 1, got '0'"),
        ("learn_sigma", "False", "True or False, got 'False'"),
        ("channel_mult", [1, 1], r"text, got \[1, 1\]"),
        ("timestep_respacing", 10, "text, got 10"),
        ("diffusion_steps", "40", "a whole number of at least 1, got '40'"),
        ("noise_schedule", 3, "one of linear, cosine, got 3"),
        ("attention_kind", {}, "one of standard, hybrid, got {}"),
    ],
)
def test_a_record_that_somebody_edited_is_refused_in_one_line(run_folder, name, value, expected):
    record(run_folder, **{name: value})
    message = f"^{name}: expected {expected} in {run_folder}/args.json$"
    with pytest.raises(ArgumentError, match=message) as refused:
        domains.load_domain(run_folder)
    assert refused.value.report.startswith(f"--{name}: expected ")
    sound = model_and_diffusion_defaults() | FLAGS  # what the command line says goes before it
    if name in sound:
        assert domains.load_domain(run_folder, {name: sound[name]}).args[name] == sound[name]


def test_a_flag_that_does_not_fit_is_not_laid_on_the_record(run_folder):
    with pytest.raises(ArgumentError, match="^image_size: expected a whole number .* got '16'$"):
        domains.load_domain(run_folder, {"image_size": "16"})
    with pytest.raises(ArgumentError, match="^amount: no setting of such a model; it has "):
        domains.load_domain(run_folder, {"amount": 3})


def test_a_domain_knows_the_settings_it_was_built_from_and_its_weights(run_folder):
    domain = domains.load_domain(run_folder, {"timestep_respacing": "10"})
    own = FLAGS | {"timestep_respacing": "10"}
    assert domain.network == ModelSettings(**{k: v for k, v in FLAGS.items() if k in NETWORK})
    assert domain.process == ProcessSettings(diffusion_steps=40, timestep_respacing="10")
    assert domain.args == defaults(ModelSettings, ProcessSettings) | own
    assert domain.identity == domain.args | {"sha256": checkpoint.digest(domain.origin)}
    assert domain.num_classes is None


def test_a_classifier_is_a_domain_whose_classes_and_channels_its_weights_tell(tmp_path):
    own = {"image_size": 16, "classifier_width": 32, "classifier_depth": 1}
    own |= {"classifier_pool": "adaptive", "classifier_attention_resolutions": ""}
    model = create_classifier(**classifier_defaults() | own, out_channels=3, in_channels=1)
    path = save(tmp_path / "model000001.pt", model=load_drawn_weights(model))
    domain = domains.load_domain(path, assumed=own, kind=domains.CLASSIFIER)
    assert domain.num_classes == 3 and domain.network == ClassifierSettings(**own, in_channels=1)
    assert domain.args["out_channels"] == 3 and domain.args["in_channels"] == 1
    out = domain.model(draw(0, 2, 1, 16, 16), torch.tensor([0, 39]))
    assert out.shape == (2, 3)
    with pytest.raises(UserError, match=r"\(check --classifier_path\)$"):
        domains.load_domain(save(tmp_path / "m.pt"), assumed=own, kind=domains.CLASSIFIER)
    checkpoint.save_state({"weight": torch.ones(3)}, tmp_path / "m.pt")
    with pytest.raises(UserError, match="expected a classifier of images, got other weights"):
        domains.load_domain(tmp_path / "m.pt", assumed=own, kind=domains.CLASSIFIER)


def test_a_command_asks_for_a_domain_by_the_settings_that_were_given(run_folder, recorder):
    network, process = ModelSettings(image_size=64), ProcessSettings(timestep_respacing="8")
    given = network.with_given([]), process.with_given(["timestep_respacing"])
    domain = domains.load_asked(str(run_folder), *given, label="source")
    assert domain.network.image_size == 16 and domain.diffusion.num_timesteps == 8
    assert domain.label == "source"
    (run_folder / "args.json").unlink()
    wide = ModelSettings(**{k: v for k, v in FLAGS.items() if k in NETWORK} | {"num_channels": 64})
    assumed = {"num_channels": 32, "diffusion_steps": 40}  # goes before what was not given
    domain = domains.load_asked(
        str(run_folder), wide.with_given([]), process.with_given([]), assumed=assumed
    )
    assert domain.network.num_channels == 32 and domain.diffusion.num_timesteps == 8
    with pytest.raises(UserError, match="--num_channels"):
        domains.load_asked(str(run_folder), wide, process, assumed=assumed)  # which was given
    with pytest.raises(ArgumentError, match="^classifier_path: expected a checkpoint or .* none"):
        domains.load_asked("", network, process, flag="classifier_path")


def damaged(tmp_path, content):
    path = tmp_path / "bad.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    return path


@pytest.mark.parametrize("legacy", [False, True])
def test_a_checkpoint_that_is_cut_off_anywhere_is_refused(tmp_path, legacy):
    whole = tmp_path / "whole.pt"
    torch.save({"a": torch.ones(3)}, whole, _use_new_zipfile_serialization=not legacy)
    content = whole.read_bytes()
    for length in range(0, len(content), 3):
        path = damaged(tmp_path, content[:length])
        with pytest.raises(UserError, match=r"bad\.pt: expected a (whole )?checkpoint"):
            checkpoint.load_state(path)
    assert torch.equal(checkpoint.load_state(damaged(tmp_path, content))["a"], torch.ones(3))


@pytest.mark.parametrize(
    "text", ["", "hello\n", "<html>404</html>", "version 1, see https://git-lfs.github.com\n"]
)
def test_a_text_file_is_refused_in_one_line_without_dangerous_advice(tmp_path, text):
    with pytest.raises(UserError, match=r"bad\.pt: expected a (whole )?checkpoint") as refused:
        checkpoint.load_state(damaged(tmp_path, text.encode()))
    assert "weights_only" not in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ([torch.ones(2)], "got list"),
        (torch.ones(2), "got Tensor"),
        ({"weights of mine": {"a": torch.ones(2)}}, "got dict at 'weights of mine'"),
        ({"a": torch.ones(2), "step": 3}, "got int at 'step'"),
        ({0: torch.ones(2)}, "got Tensor at 0"),
    ],
)
def test_other_content_than_named_tensors_is_refused(tmp_path, content, found):
    with pytest.raises(UserError, match=f"expected a state dict of tensors, {found}"):
        checkpoint.load_state(damaged(tmp_path, content))


def test_a_pickle_with_code_is_refused_and_its_code_does_not_run(tmp_path):
    made = tmp_path / "made"
    path = damaged(tmp_path, {"a": Payload(made)})
    with pytest.raises(UserError, match=r"bad\.pt: .*could run code") as refused:
        domains.load_domain(path, assumed=FLAGS)
    assert "weights_only" not in str(refused.value)
    assert not made.exists()
    torch.load(path, weights_only=False)
    assert made.exists()  # the code would have run


@pytest.mark.parametrize("load", [domains.load_domain, checkpoint.load_state])
def test_a_missing_file_is_refused_by_name(tmp_path, load):
    with pytest.raises(UserError, match=r"no\.pt: (no such|expected a) checkpoint"):
        load(tmp_path / "no.pt")


@pytest.mark.parametrize(
    ("flags", "hint"),
    [
        ({"num_channels": 64}, "--num_channels"),
        ({"in_channels": 1}, "--in_channels"),
        ({"learn_sigma": True}, "--learn_sigma"),
        ({"attention_resolutions": ""}, "--attention_resolutions"),
        ({"use_scale_shift_norm": False}, "--use_scale_shift_norm"),
        ({"resblock_updown": True}, "--resblock_updown"),
        ({"class_cond": True}, "--class_cond"),
        ({"channel_mult": "1,2"}, "--channel_mult"),
        ({"channel_mult": "2,1"}, "--channel_mult"),
        ({"channel_mult": "1,1,1"}, "--num_res_blocks or --channel_mult"),
        ({"num_res_blocks": 2}, "--num_res_blocks or --channel_mult"),
        ({"num_res_blocks": 2, "num_channels": 64}, "--num_channels"),
    ],
)
@pytest.mark.parametrize("reverse", [False, True])
def test_weights_of_another_network_name_a_difference_and_the_flag(tmp_path, flags, hint, reverse):
    models = [network(), network(**flags)][:: -1 if reverse else 1]
    path = save(tmp_path / "other.pt", model=models[0])
    with pytest.raises(UserError) as refused:
        checkpoint.load_weights(models[1], path)
    message = str(refused.value)
    assert f"{path}: checkpoint and flags describe different networks; first at '" in message
    assert message.endswith(f"(check {hint})")


def test_shapes_of_the_first_difference_are_told(tmp_path):
    path = save(tmp_path / "other.pt", model=network(num_channels=64))
    expected = (
        r"first at 'time_embed.0.weight': the flags ask for \(128, 32\), "
        r"the file holds \(256, 64\) \(check --num_channels\)"
    )
    with pytest.raises(UserError, match=expected):
        domains.load_domain(path, assumed=FLAGS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("out.2.bias"), r"'out.2.bias': .* \(3,\), the file holds absent"),
        (
            lambda s: s.update(extra=torch.ones(1)),
            r"'extra': the flags ask for absent, .*\(1,\)",
        ),
    ],
)
def test_a_missing_and_a_further_key_are_named(tmp_path, change, message):
    state = network().state_dict()
    change(state)
    checkpoint.save_state(state, tmp_path / "other.pt")
    with pytest.raises(UserError, match=message):
        checkpoint.load_weights(network(), tmp_path / "other.pt")


def test_weights_of_another_network_leave_the_model_alone(tmp_path):
    path = save(tmp_path / "other.pt", model=network(learn_sigma=True))
    model = network()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(UserError):
        checkpoint.load_weights(model, path)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("use_fp16", [False, True])
def test_a_half_precision_checkpoint_runs_in_float32_on_a_cpu(tmp_path, use_fp16):
    path = save(tmp_path / "half.pt", model=network().half())
    domain = domains.load_domain(path, assumed=FLAGS | {"use_fp16": use_fp16})
    assert {p.dtype for p in domain.model.parameters()} == {torch.float32}
    x, t = draw(0, 1, 3, 16, 16), torch.tensor([3])
    out = domain.model(x, t)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, network()(x, t), atol=0.02, rtol=0.02)


def test_a_saved_state_is_whole_or_absent(tmp_path, monkeypatch):
    path = save(tmp_path / "model.pt", 2)
    before = snapshot(tmp_path)

    def full_disk(state, file):
        file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="no space"):
        checkpoint.save_state({}, path)
    assert snapshot(tmp_path) == before


def test_a_domain_without_parameters_is_on_the_cpu(tmp_path):
    settings = ModelSettings(), ProcessSettings()
    domain = domains.Domain(torch.nn.Identity(), None, "toy", tmp_path, *settings)
    assert domain.device == torch.device("cpu")


@pytest.mark.parametrize("half_file", [True, False])
def test_half_precision_files_and_networks_load_strictly_into_the_other(tmp_path, half_file):
    saved, asked = network(use_fp16=half_file), network(use_fp16=not half_file)
    saved.convert_to_fp16() if half_file else asked.convert_to_fp16()
    path = save(tmp_path / "model.pt", model=saved)
    kinds = {value.dtype for value in checkpoint.load_state(path).values()}
    assert kinds == ({torch.float16, torch.float32} if half_file else {torch.float32})
    dtypes = {key: value.dtype for key, value in asked.state_dict().items()}
    with torch.no_grad():
        [parameter.zero_() for parameter in asked.parameters()]
    checkpoint.load_weights(asked, path)
    for key, value in asked.state_dict().items():
        assert value.dtype == dtypes[key]
        assert torch.equal(value.half(), saved.state_dict()[key].half())


def test_a_run_of_half_precision_weights_is_a_domain_in_float32_on_the_cpu(tmp_path):
    record(tmp_path, use_fp16=True)
    half = network()
    half.convert_to_fp16()
    save(tmp_path / "model000001.pt", model=half)
    model = domains.load_domain(tmp_path).model
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model(draw(0, 1, 3, 16, 16), torch.tensor([3])).isfinite().all()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_both_formats_hold_the_same_tensors(tmp_path, suffix):
    whole = torch.arange(12.0)
    # Views of one memory, which safetensors refuses.
    state = {"a": whole[:6].view(2, 3).T, "b": whole[3:], "c": torch.tensor(3)}
    checkpoint.save_state(state, tmp_path / f"x{suffix}")
    found = checkpoint.load_state(tmp_path / f"x{suffix}")
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], state[key]) for key in state)


def test_weights_of_something_else_are_no_matter_of_a_flag(tmp_path):
    own = {"time_embed.0.weight": torch.zeros(2)}
    with pytest.raises(UserError, match="got none of its tensors: 1 others, such as 'a'$"):
        checkpoint.refuse_unlike(own, {"a": torch.zeros(3)}, tmp_path / "a.pt", [])
