"""Mistakes in one line: who is blamed, and what is missing."""

import json
import sys

import pytest

from guided_diffusion import errors
from guided_diffusion.errors import ArgumentError, UserError, blame


def test_a_mistake_names_the_argument_that_is_blamed():
    with (
        pytest.raises(ArgumentError, match="^data_dir: expected a folder") as caught,
        blame("data_dir"),
    ):
        raise UserError("expected a folder")
    assert caught.value.report == "--data_dir: expected a folder"


def test_a_mistake_that_names_its_argument_keeps_it():
    with pytest.raises(ArgumentError, match="^amount: too large"), blame("data_dir"):
        raise ArgumentError("amount", "too large")
    with pytest.raises(errors.MissingExtraError, match="^this needs"), blame("data_dir"):
        errors.require("no_such_one", "metrics")
    with pytest.raises(KeyError), blame("data_dir"):
        raise KeyError("not a user's mistake")


def test_a_missing_extra_is_named_in_a_user_error():
    assert errors.require("json", "metrics") is json
    with pytest.raises(errors.UserError, match=r"needs no_such_one: pip install .*\[metrics\]"):
        errors.require("no_such_one.part", "metrics")
    with pytest.raises(ImportError):
        errors.require("no_such_one.part", "metrics")


def test_a_missing_package_is_missed_though_a_part_of_it_is_loaded(monkeypatch):
    assert errors.require("json.decoder", "metrics") is json.decoder
    monkeypatch.setitem(sys.modules, "json", None)
    with pytest.raises(errors.MissingExtraError, match="needs json"):
        errors.require("json.decoder", "metrics")
