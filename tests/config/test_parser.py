"""The parser: upstream's defaults and syntax, help on every flag, and typed settings from words."""

import argparse
import dataclasses
import sys
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.cli import ROOT, load_script
from support.parsers import COMMANDS, flags_of
from support.reference_interface import INTERFACE

from guided_diffusion.commands.launcher import SHORT_NAMES
from guided_diffusion.config import parser as parsing
from guided_diffusion.config.settings import Settings, setting
from guided_diffusion.errors import ArgumentError
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
class Shared(Settings):
    """Flags of a group.

    More about them.
    """

    size: int = setting(64, "side, pixels", minimum=1)
    fast: bool = setting(False, "be quick", free=True)


@dataclass(frozen=True)
class Other(Settings):
    """Another group."""

    size: int = setting(32, "side of the other, pixels")
    rate: float = setting(0.5, "share of 100%", minimum=0, maximum=1, free=True)
    mode: str = setting("slow", "pace", choices=("slow", "quick"))
    parts: int = setting(-1, "parts; -1: one", minimum=1, also=(-1,))


@dataclass(frozen=True)
class Places(Settings):
    """What must be given."""

    source: str = setting("", "folder to read", place="FOLDER")
    output: str = setting("", "file to write")


GROUPS = Shared, Other
USUAL = {"size": 64, "fast": False, "rate": 0.5, "mode": "slow", "parts": -1}


@pytest.fixture
def parser():
    return parsing.create_parser("What for.", *GROUPS)


def parse(words, *groups, **options):
    return parsing.parse(words.split(), "What for.", *(groups or GROUPS), **options)


@pytest.mark.parametrize(("repository", "script"), SCRIPTS)
def test_defaults_of_a_script_are_upstreams(repository, script):
    expected = UPSTREAM[repository][f"{script}.py"]
    found = flags_of(load_script(script).main.parser())
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


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_has_a_help_text_and_shows_its_default(command):
    parser = COMMANDS[command].parser()
    text = "".join(parser.format_help().split())  # lines break anywhere
    assert text.startswith("usage:")
    for flag, action in flags_of(parser).items():
        assert len(action.help) > 7, flag
        shown = repr(action.default) if action.default == "" else action.default
        required = getattr(action, "must_be_given", False) and action.default == ""
        end = "(required)" if required else f"(default: {shown})"
        assert "".join(f"{action.help} {end}".split()) in text, flag


@pytest.mark.parametrize("command", COMMANDS)
def test_the_defaults_of_every_flag_parse_back_to_themselves(command):
    parser = COMMANDS[command].parser()
    places = [a.metavar for a in parser._actions if not a.option_strings]
    defaults = vars(parser.parse_args(places))
    named = {flag[2:] for flag in flags_of(parser)} - {"defaults"}
    words = [word for name in named for word in (f"--{name}", str(defaults[name]))]
    assert vars(parser.parse_args([*places, *words])) == defaults


def test_every_script_is_a_command():
    scripts = {path.stem for path in (ROOT / "scripts").glob("*.py")}
    commands = {name.split()[0] for name in COMMANDS}
    assert scripts == {SHORT_NAMES.get(name, name) for name in commands}


@pytest.mark.parametrize(("_", "script"), SCRIPTS)
def test_no_word_gives_the_settings_of_the_groups_and_the_overrides_of_the_command(_, script):
    command = load_script(script).main
    found = {}
    for group in reversed(command.parse([])):
        assert not group.given
        found |= group.values()
    first = next(iter(command.sets.values()), {})
    chosen = {name: value for name, value in first.items() if name in found}
    assert found == command.defaults | command.overrides | chosen


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
    assert parsing.str2bool(text) is True


@pytest.mark.parametrize("text", ["no", "false", "f", "n", "0", "False", "FALSE", "N", False])
def test_str2bool_reads_false(text):
    assert parsing.str2bool(text) is False


@pytest.mark.parametrize("text", ["", "2", "maybe", "None", " true"])
def test_str2bool_refuses_the_rest_and_shows_it(text):
    with pytest.raises(argparse.ArgumentTypeError, match=f"got {text!r}"):
        parsing.str2bool(text)


def test_a_flag_of_two_groups_is_added_once_with_the_default_of_the_first(parser):
    assert list(flags_of(parser)) == ["--size", "--fast", "--rate", "--mode", "--parts"]
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
    (found,) = parse("", Shared, overrides={"fast": True})
    assert found.values() == {"size": 64, "fast": True} and found.given == set()
    for make in (parse, parsing.create_parser):
        with pytest.raises(ValueError, match="'spead'"):
            make("", Shared, overrides={"spead": 1})


OVERRIDES = {"size": 16, "fast": True}
SETS = {"ours": {}, "theirs": {"size": 8, "mode": "quick", "lr": 1.0}, "last": {"rate": 0.1}}


@pytest.fixture
def choosing():
    return parsing.create_parser("What for.", *GROUPS, overrides=OVERRIDES, sets=SETS)


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
    usual = USUAL | OVERRIDES
    for _ in range(2):  # a choice is forgotten
        assert vars(choosing.parse_args(words.split())) == usual | changed
        assert vars(choosing.parse_args([])) == usual
    shared, other = parse(words, overrides=OVERRIDES, sets=SETS)
    assert other.values() | shared.values() == usual | changed
    on_the_line = {word.lstrip("-").partition("=")[0] for word in words.split() if "--" in word}
    assert shared.given | other.given == on_the_line - {"defaults"}


def test_sets_of_defaults_are_read_from_the_command_line(choosing, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["script", "--defaults", "theirs"])
    assert choosing.parse_args().size == 8


def test_help_shows_the_chosen_defaults(choosing, capsys):
    texts = []
    for words in (["--help"], ["--defaults", "theirs", "--help"], ["--help", "--defaults=theirs"]):
        with pytest.raises(SystemExit):
            choosing.parse_args(words)
        texts.append(" ".join(capsys.readouterr().out.split()))
    assert "pixels (default: 16)" in texts[0] and "come (default: ours)" in texts[0]
    for text in texts[1:]:
        assert "pixels (default: 8)" in text and "come (default: theirs)" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--defaults nobody", "defaults: invalid choice: 'nobody' (choose from 'ours', 'theirs'"),
        ("--defaults", "defaults: expected one argument"),
        ("--defaults theirs --size x", "size: expected a whole number of at least 1, got 'x'"),
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
    parser = load_script(script).main.parser()
    words = ["--defaults", repository.split("-")[0]]
    assert vars(parser.parse_args(words)).items() >= expected.items()
    typed = load_script(script).main.parse(words)
    assert {k: v for group in typed for k, v in group.values().items()}.items() >= expected.items()


def test_adds_defaults_build_the_network_of_its_sampler():
    network = "image_size num_channels num_head_channels attention_resolutions use_fp16".split()
    published = UPSTREAM["ADD"]["frequency_generating_m_samples.py"]
    found = load_script("image_train").main.parse(["--defaults", "add"])[3]
    for name in network:
        assert (name, getattr(found, name)) == (name, published[f"--{name}"])


def test_add_dict_to_argparser_types_each_flag_by_its_default():
    parser = argparse.ArgumentParser()
    given = {"a": 1, "b": 0.5, "c": "x", "d": False, "e": None, "f": "%d.png", "g": ""}
    parsing.add_dict_to_argparser(parser, given)
    assert vars(parser.parse_args([])) == given
    words = "--a 2 --b 1 --c 3 --d True --e 4 --f 5 --g 6".split()
    read = {"a": 2, "b": 1.0, "c": "3", "d": True, "e": "4", "f": "5", "g": "6"}
    assert vars(parser.parse_args(words)) == read
    assert all(action.help for action in flags_of(parser).values())
    assert "(default: %d.png)" in " ".join(parser.format_help().split())


def test_args_to_dict_takes_the_named_flags_only():
    args = argparse.Namespace(a=1, b=2, c=3)
    assert parsing.args_to_dict(args, {"b": 0, "a": 0}) == {"b": 2, "a": 1}
    with pytest.raises(AttributeError, match="d"):
        parsing.args_to_dict(args, ["d"])


def test_words_become_frozen_instances_of_each_group():
    shared, other = parse("--size 8 --fast --rate 1")
    assert (type(shared), type(other)) == GROUPS
    assert (shared.size, shared.fast) == (8, True)
    assert (other.size, other.rate, other.mode) == (8, 1.0, "slow") and type(other.rate) is float
    with pytest.raises(dataclasses.FrozenInstanceError):
        shared.size = 9


def test_without_words_those_of_the_command_line_are_read(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["script", "--size", "5"])
    (found,) = parsing.parse(None, "What for.", Shared)
    assert found.size == 5 and found.given == {"size"}


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("", ""),
        ("--size 64", "size"),  # as it is by default
        ("--size=64", "size"),
        ("--size 1 --size 64", "size"),
        ("--fast", "fast"),
        ("--fast False", "fast"),
        ("--fast --mode slow --rate=0.5", "fast mode rate"),
        ("--parts -1", "parts"),
        ("--parts=-1 --size 64 --fast=False --rate 0.5 --mode=slow", "size fast rate mode parts"),
    ],
)
def test_given_are_the_flags_on_the_command_line_whatever_their_values(words, names):
    expected = set(names.split())
    for found in parse(words):
        assert found.given == expected & found.values().keys()
        assert found.given_values() == {n: getattr(found, n) for n in sorted(found.given)}


def test_a_name_of_two_groups_has_one_value_and_is_given_to_both():
    shared, other = parse("--size 7")
    assert shared.size == other.size == 7
    assert "size" in shared.given and "size" in other.given
    shared, other = parse("", Other, Shared)  # the default is that of the first
    assert shared.size == other.size == 32


@given(st.integers(-20, 20), st.floats(-2, 2), st.sampled_from(["slow", "quick"]), st.booleans())
def test_every_value_parses_to_what_python_takes_and_no_other(parts, rate, mode, fast):
    words = f"--parts {parts} --rate={rate!r} --mode {mode} --fast {fast}"
    try:
        expected = Other(size=64, parts=parts, rate=rate, mode=mode)
    except ArgumentError:
        with pytest.raises(SystemExit):
            parse(words)
    else:
        assert parse(words) == (Shared(fast=fast), expected)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--size 0", "argument --size: expected a whole number of at least 1, got '0'"),
        ("--size 2.5", "argument --size: expected a whole number of at least 1, got '2.5'"),
        (
            f"--size 1{'0' * 400}",
            "argument --size: expected a whole number from 1 to 2147483647, got",
        ),
        ("--rate 1.5", "argument --rate: expected a number from 0 to 1, got '1.5'"),
        ("--rate nan", "argument --rate: expected a number from 0 to 1, got 'nan'"),
        ("--rate inf", "argument --rate: expected a number from 0 to 1, got 'inf'"),
        ("--parts 0", "argument --parts: expected a whole number of at least 1 or -1, got '0'"),
        ("--fast perhaps", "argument --fast: expected a boolean such as True or False, got 'pe"),
        ("--mode", "argument --mode: expected one argument"),
        ("--rat 1", "unrecognized arguments: --rat 1; did you mean --rate?"),
        ("x --RATT=1", "unrecognized arguments: x --RATT=1; did you mean --rate?"),
        ("--hlep", "unrecognized arguments: --hlep; did you mean --help?"),
        ("--speed 1", "unrecognized arguments: --speed 1 ("),
        ("word", "unrecognized arguments: word"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_and_code_2(capsys, words, message):
    with pytest.raises(SystemExit) as stop:
        parse(words)
    said = capsys.readouterr()
    assert stop.value.code == 2 and said.out == ""
    assert said.err.startswith(f"error: {message}") and said.err.count("\n") == 1
    assert said.err.endswith("(--help lists all flags)\n")


def test_a_place_is_told_without_a_flag_and_must_be_given(capsys):
    (found,) = parse("here --output there", Places)
    assert found.values() == {"source": "here", "output": "there"}
    assert found.given == {"source", "output"}
    with pytest.raises(SystemExit) as stop:
        parse("--output there", Places)
    assert stop.value.code == 2
    assert "the following arguments are required: FOLDER" in capsys.readouterr().err
    text = " ".join(parsing.create_parser("What for.", Places).format_help().split())
    assert "FOLDER folder to read" in text and "--source" not in text
    assert text.startswith("usage:") and "FOLDER [--FLAG VALUE ...] What for." in text


def test_help_opens_with_the_command_and_what_it_is_for(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["guided-diffusion it"])
    with pytest.raises(SystemExit) as stop:
        parse("--help")
    said = capsys.readouterr().out
    assert stop.value.code == 0
    assert said.startswith("usage: guided-diffusion it [--FLAG VALUE ...]\n\nWhat for.\n")


@pytest.mark.parametrize(
    ("text", "kind", "found"),
    [("1,2", int, (1, 2)), ("1.5", float, (1.5,)), (16, int, (16,)), ("3, 4", int, (3, 4))],
)
def test_numbers_stand_with_commas_between(text, kind, found):
    assert parsing.numbers("sides", text, kind) == found


@pytest.mark.parametrize("text", ["", "1,", "1,x", "1.5", "1;2"])
def test_other_text_than_numbers_names_its_argument(text):
    with pytest.raises(ArgumentError, match=f"^sides: expected numbers with .*, got '{text}'"):
        parsing.numbers("sides", text)


def test_names_are_some_of_those_that_are_known():
    assert parsing.names("engines", "b,a", ("a", "b", "c")) == ["b", "a"]
    for text in ("", "a,", "a,d", "a b"):
        with pytest.raises(ArgumentError, match=f"^engines: expected some of a,b, got '{text}'"):
            parsing.names("engines", text, ("a", "b"))


def test_a_value_that_begins_with_a_minus_is_no_flag():
    @dataclass(frozen=True)
    class Scale(Settings):
        """A scale."""

        span: str = setting("", "two numbers")

    parser = parsing.create_parser("", Scale)
    for value in ("-2000,2096", "-.5,1", "-1e-3"):
        assert parser.parse_args(["--span", value]).span == value
    with pytest.raises(SystemExit):
        parser.parse_args(["--span", "-x"])
