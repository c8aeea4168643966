"""Weights as other programs save them, and files that are taken for weights by mistake."""

import collections

import pytest
import torch

from guided_diffusion.errors import UserError
from guided_diffusion.models import checkpoint

STATE = {"a.weight": torch.ones(2), "b": torch.zeros(3)}
OPTIMIZER = {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"params": [0]}]}


def load(tmp_path, content, name="x.pt"):
    torch.save(content, tmp_path / name)
    return checkpoint.load_state(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"state_dict": STATE}, "taking the weights under 'state_dict'"),
        ({"model": STATE, "optimizer": OPTIMIZER, "epoch": 3}, "taking the weights under 'model'"),
        ({"ema": STATE, "step": torch.tensor(3)}, "taking the weights under 'ema'"),
        ({"model": {"state_dict": STATE}}, "taking the weights under 'state_dict'"),
        ({f"module.{key}": value for key, value in STATE.items()}, "begins with 'module.'"),
        ({f"_orig_mod.{key}": value for key, value in STATE.items()}, "begins with '_orig_mod.'"),
        (
            {f"module._orig_mod.{key}": value for key, value in STATE.items()},
            "begins with 'module._orig_mod.'",
        ),
        (
            {"n_averaged": torch.tensor(3)} | {f"module.{k}": v for k, v in STATE.items()},
            "begins with 'module.'",
        ),
        (
            {"state_dict": {f"model.{key}": value for key, value in STATE.items()}},
            "begins with 'model.'",
        ),
        (collections.OrderedDict(STATE), ""),
    ],
)
def test_harmless_wrappers_and_prefixes_are_taken_off_and_told(tmp_path, recorder, content, told):
    assert list(load(tmp_path, content)) == list(STATE)
    assert told in recorder.text and bool(told) == bool(recorder.text)


def test_a_prefix_of_some_keys_stays(tmp_path):
    some = {"module.a": torch.ones(1), "b": torch.ones(1)}
    assert list(load(tmp_path, some)) == ["module.a", "b"]


def test_two_sets_of_weights_are_a_choice_for_the_user(tmp_path):
    with pytest.raises(UserError, match="several under 'model' and 'ema'; save the one to use"):
        load(tmp_path, {"model": STATE, "ema": STATE})


def test_an_optimizer_is_named_with_the_weights_beside_it(tmp_path):
    with pytest.raises(UserError, match="got the state of an optimizer$"):
        load(tmp_path, OPTIMIZER, "opt000004.pt")
    torch.save(STATE, tmp_path / "model000004.pt")
    with pytest.raises(UserError, match="an optimizer; did you mean .*/model000004.pt?"):
        load(tmp_path, OPTIMIZER, "opt000004.pt")


def test_a_wrapper_around_itself_ends(tmp_path):
    around = {}
    around["model"] = around
    with pytest.raises(UserError, match="expected a state dict of tensors, got dict at 'model'"):
        load(tmp_path, around)


def test_a_whole_module_is_named_with_what_to_save_instead(tmp_path):
    with pytest.raises(UserError, match=r"got torch\.nn\.modules\.linear\.Linear.* run code"):
        load(tmp_path, torch.nn.Linear(2, 2))


def test_a_rate_that_is_no_number_is_no_average(tmp_path):
    for name in ("ema_1.2.3_000100.pt", "ema_-_000100.pt", "ema_._000100.pt", "model000001.pt"):
        (tmp_path / name).touch()
    assert checkpoint.newest_weights(tmp_path).name == "model000001.pt"


def test_a_folder_that_may_not_be_listed_is_no_empty_folder(tmp_path, monkeypatch):
    def forbidden(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(checkpoint.os, "listdir", forbidden)
    with pytest.raises(UserError, match="cannot be read .Permission denied"):
        checkpoint.checkpoint_files(tmp_path)
