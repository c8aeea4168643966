"""Flags: upstream's defaults and syntax, help on each of them, and what is derived from groups."""

import argparse
import sys
from dataclasses import dataclass

import pytest
from support.cli import load_script
from support.reference_interface import INTERFACE

from guided_diffusion.config import flags
from guided_diffusion.config.flags import option
from guided_diffusion.generation import plan

UPSTREAM = {repository: own["cli"] for repository, own in INTERFACE.items()}
SCRIPTS = [
    ("guided-diffusion", "image_train"),
    ("guided-diffusion", "image_sample"),
    ("guided-diffusion", "super_res_train"),
    ("guided-diffusion", "super_res_sample"),
    ("guided-diffusion", "image_nll"),
    ("guided-diffusion", "classifier_train"),
    ("guided-diffusion", "classifier_sample"),
    ("ddib", "imagenet_translation"),
    ("ADD", "frequency_generating_m_samples"),
    ("ddib", "synthetic_train"),
    ("ddib", "synthetic_sample"),
    ("ddib", "synthetic_translation"),
    ("ddib", "synthetic_cycle"),
]
OURS = ["convert_checkpoint"]  # and no upstream's
SHARED_SCRIPTS = [
    (repository, script)
    for script in (
        "image_train",
        "image_sample",
        "super_res_train",
        "super_res_sample",
        "image_nll",
    )
    for repository in ("guided-diffusion", "improved-diffusion")
]
# The ADD script has one network order per role; and names of domains are text here, not numbers.
BY_ROLE = {"frequency_generating_m_samples": {"--use_new_attention_order"}}
TEXT = {"frequency_generating_m_samples": {"--source", "--target"}}


@dataclass(frozen=True)
class Shared:
    """Flags of a group.

    More about them.
    """

    size: int = option(64, "side, pixels")
    fast: bool = option(False, "be quick", free=True)


@dataclass(frozen=True)
class Other:
    """Another group."""

    size: int = option(32, "side of the other, pixels")
    rate: float = option(0.5, "share of 100%", free=True)
    mode: str = option("slow", "how", choices=("slow", "quick"))


@pytest.fixture
def parser():
    parser = argparse.ArgumentParser(allow_abbrev=False)
    flags.add_options(parser, Shared, Other)
    return parser


def flags_of(parser):
    return {a.option_strings[0]: a for a in parser._actions if a.dest != "help"}


@pytest.mark.parametrize(("repository", "script"), SCRIPTS)
def test_defaults_of_a_script_are_upstreams(repository, script):
    expected = UPSTREAM[repository][f"{script}.py"]
    found = flags_of(load_script(script).create_argparser())
    compared = expected.keys() - BY_ROLE.get(script, set())
    assert len(compared) > 15
    for flag in compared:
        wanted = str(expected[flag]) if flag in TEXT.get(script, ()) else expected[flag]
        assert (flag, found[flag].default) == (flag, wanted)
        assert type(found[flag].default) is type(wanted)


def test_the_add_script_orders_channels_by_role():
    published = UPSTREAM["ADD"]["frequency_generating_m_samples.py"]["--use_new_attention_order"]
    assert published == "True for the source model, False for the target model"
    assert plan.ORDER == {"source": True, "target": False}


@pytest.mark.parametrize("script", [*(name for _, name in SCRIPTS), *OURS])
def test_every_flag_has_a_help_text_and_shows_its_default(script):
    parser = load_script(script).create_argparser()
    for flag, action in flags_of(parser).items():
        text, _, shown = action.help.rpartition(" (default: ")
        assert len(text) > 7, flag
        assert shown == f"{action.default!r})" if action.default == "" else f"{action.default})"
    assert "usage: " in parser.format_help()


@pytest.mark.parametrize("script", [*(name for _, name in SCRIPTS), *OURS])
def test_the_defaults_of_every_flag_parse_back_to_themselves(script):
    parser = load_script(script).create_argparser()
    defaults = vars(parser.parse_args([]))
    words = [word for name, value in defaults.items() for word in (f"--{name}", str(value))]
    assert vars(parser.parse_args(words)) == defaults


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], False),
        (["--fast", "True"], True),
        (["--fast"], True),
        (["--fast=yes"], True),
        (["--fast", "--size", "8"], True),
        (["--fast", "False"], False),
        (["--fast", "True", "--fast", "0"], False),
    ],
)
def test_a_boolean_flag_takes_upstreams_syntax_and_stands_alone(parser, words, expected):
    assert parser.parse_args(words).fast is expected


@pytest.mark.parametrize(
    "words",
    [["--fast", "maybe"], ["--size", "1.5"], ["--mode", "fast"], ["--fas"], ["--nope", "1"]],
)
def test_a_word_that_is_no_value_of_its_flag_ends_with_code_2(parser, words, capsys):
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(words)
    assert stop.value.code == 2
    assert words[0] in capsys.readouterr().err


@pytest.mark.parametrize("text", ["yes", "true", "t", "y", "1", "True", "TRUE", "Y", True])
def test_str2bool_reads_true(text):
    assert flags.str2bool(text) is True


@pytest.mark.parametrize("text", ["no", "false", "f", "n", "0", "False", "FALSE", "N", False])
def test_str2bool_reads_false(text):
    assert flags.str2bool(text) is False


@pytest.mark.parametrize("text", ["", "2", "maybe", "None", " true"])
def test_str2bool_refuses_the_rest_and_shows_it(text):
    with pytest.raises(argparse.ArgumentTypeError, match=f"got {text!r}"):
        flags.str2bool(text)


def test_a_flag_of_two_groups_is_added_once_with_the_default_of_the_first(parser):
    assert list(flags_of(parser)) == ["--size", "--fast", "--rate", "--mode"]
    assert parser.parse_args([]).size == 64


def test_help_shows_groups_units_choices_and_a_percent_sign(parser):
    text = " ".join(parser.format_help().split())
    parts = (
        "Flags of a group:",
        "--size INT side, pixels (default: 64)",
        "--fast [BOOL] be quick (default: False)",
        "share of 100% (default: 0.5)",
        "--mode {slow,quick}",
    )
    for part in parts:
        assert part in text
    assert "More about them" not in text


def test_overrides_replace_defaults_and_must_name_a_flag():
    parser = argparse.ArgumentParser()
    flags.add_options(parser, Shared, overrides={"fast": True})
    assert vars(parser.parse_args([])) == {"size": 64, "fast": True}
    with pytest.raises(ValueError, match="'spead'"):
        flags.add_options(argparse.ArgumentParser(), Shared, overrides={"spead": 1})


SETS = {"ours": {}, "theirs": {"size": 8, "mode": "quick", "lr": 1.0}, "last": {"rate": 0.1}}


@pytest.fixture
def choosing():
    overrides = {"size": 16, "fast": True}
    return flags.create_parser("What for.", Shared, Other, overrides=overrides, sets=SETS)


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        ("", {}),
        ("--defaults ours", {}),
        ("--defaults theirs", {"size": 8, "mode": "quick"}),
        ("--defaults=theirs --size 5", {"size": 5, "mode": "quick"}),
        ("--size 16 --mode slow --defaults theirs", {}),
        ("--rate 0.2 --defaults last --defaults theirs", {"size": 8, "mode": "quick", "rate": 0.2}),
        ("--defaults last", {"rate": 0.1}),
    ],
)
def test_a_set_of_defaults_changes_flags_that_are_not_given(choosing, words, changed):
    usual = {"size": 16, "fast": True, "rate": 0.5, "mode": "slow"}
    for _ in range(2):  # a choice is forgotten
        assert vars(choosing.parse_args(words.split())) == usual | changed
    assert vars(choosing.parse_args([])) == usual


def test_sets_of_defaults_are_read_from_the_command_line(choosing, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["script", "--defaults", "theirs"])
    assert choosing.parse_args().size == 8


def test_help_shows_the_chosen_defaults(choosing, capsys):
    texts = []
    for words in (["--help"], ["--defaults", "theirs", "--help"], ["--help", "--defaults=theirs"]):
        with pytest.raises(SystemExit):
            choosing.parse_args(words)
        texts.append(" ".join(capsys.readouterr().out.split()))
    assert "pixels (default: 16)" in texts[0] and "have (default: ours)" in texts[0]
    for text in texts[1:]:
        assert "pixels (default: 8)" in text and "have (default: theirs)" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--defaults nobody", "defaults: invalid choice: 'nobody' (choose from 'ours', 'theirs'"),
        ("--defaults", "defaults: expected one argument"),
        ("--defaults theirs --size x", "size: expected a whole number, got 'x'"),
    ],
)
def test_a_mistake_beside_a_set_of_defaults_is_named(choosing, capsys, words, message):
    with pytest.raises(SystemExit) as stop:
        choosing.parse_args(words.split())
    assert stop.value.code == 2
    assert message.replace("'", "") in capsys.readouterr().err.replace("'", "")


@pytest.mark.parametrize(("repository", "script"), SHARED_SCRIPTS)
def test_a_chosen_set_of_defaults_is_the_upstreams(repository, script):
    published = UPSTREAM[repository][f"{script}.py"]
    expected = {flag[2:]: value for flag, value in published.items()}
    parser = load_script(script).create_argparser()
    found = vars(parser.parse_args(["--defaults", repository.split("-")[0]]))
    assert found.items() >= expected.items()


def test_adds_defaults_build_the_network_of_its_sampler():
    network = "image_size num_channels num_head_channels attention_resolutions use_fp16".split()
    published = UPSTREAM["ADD"]["frequency_generating_m_samples.py"]
    found = load_script("image_train").create_argparser().parse_args(["--defaults", "add"])
    for name in network:
        assert (name, getattr(found, name)) == (name, published[f"--{name}"])


def test_defaults_and_free_flags_join_groups():
    joined = {"size": 32, "fast": False, "rate": 0.5, "mode": "slow"}
    assert flags.defaults(Shared, Other) == joined
    assert flags.free_flags(Shared, Other) == {"fast", "rate"}


def test_add_dict_to_argparser_types_each_flag_by_its_default():
    parser = argparse.ArgumentParser()
    given = {"a": 1, "b": 0.5, "c": "x", "d": False, "e": None, "f": "%d.png", "g": ""}
    flags.add_dict_to_argparser(parser, given)
    assert vars(parser.parse_args([])) == given
    words = "--a 2 --b 1 --c 3 --d True --e 4 --f 5 --g 6".split()
    read = {"a": 2, "b": 1.0, "c": "3", "d": True, "e": "4", "f": "5", "g": "6"}
    assert vars(parser.parse_args(words)) == read
    assert all(action.help for action in flags_of(parser).values())
    assert "(default: %d.png)" in " ".join(parser.format_help().split())


def test_args_to_dict_takes_the_named_flags_only():
    args = argparse.Namespace(a=1, b=2, c=3)
    assert flags.args_to_dict(args, {"b": 0, "a": 0}) == {"b": 2, "a": 1}
    with pytest.raises(AttributeError, match="d"):
        flags.args_to_dict(args, ["d"])


def test_given_flags_are_those_on_the_command_line():
    words = ["--a", "1", "--b=2", "--c", "-1", "word", "--d", "--e=x=--y"]
    assert flags.given_flags(words) == {"a", "b", "c", "d", "e"}
    assert flags.given_flags([]) == set()
