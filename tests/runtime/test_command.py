"""How a command starts and ends: settings from words, one-line errors, exit codes, signals."""

import signal
from dataclasses import dataclass

import pytest
import torch
from support.cli import ROOT, load_script

from guided_diffusion import dist_util, logger
from guided_diffusion.config import parser
from guided_diffusion.config.network_settings import ModelSettings
from guided_diffusion.config.settings import Settings, setting
from guided_diffusion.errors import ArgumentError, DivergedError, MissingExtraError, UserError
from guided_diffusion.runtime import command, stop_requests
from guided_diffusion.runtime.settings import ExecutionSettings
from guided_diffusion.training.settings import DenoisingSettings


@dataclass(frozen=True)
class Asked(Settings):
    """What is asked."""

    word: str = setting("x", "a word")
    size: int = setting(4, "side, pixels", minimum=1)


@dataclass(frozen=True)
class Run(Settings):
    """The run."""

    out_dir: str = setting("", "folder of the run", free=True)
    size: int = setting(8, "side of the run, pixels")


def raising(error, **options):
    """A command whose body raises."""

    @command.command(**options)
    def main(asked: Asked) -> None:
        raise error

    return main


def test_a_command_takes_its_settings_from_the_annotations_of_its_body():
    seen = []

    @command.command(overrides={"word": "y"})
    def main(asked: Asked, run: Run) -> None:
        """Note what is asked."""
        seen.extend((asked, run))

    assert main(["--size", "5", "--out_dir", "there"]) is None
    assert seen == [Asked("y", 5), Run("there", 5)]
    assert [group.given for group in seen] == [{"size"}, {"out_dir", "size"}]
    assert main.groups == (Asked, Run)
    assert main.name == "test_command" and main.description == __doc__
    assert main.defaults == {"word": "x", "size": 4, "out_dir": ""}
    assert main.free == {"out_dir"}
    assert main.parse(["--word", "z"]) == (Asked("z"), Run(size=4))


def test_a_command_reads_the_words_of_the_command_line(monkeypatch):
    seen = []

    @command.command()
    def main(asked: Asked) -> None:
        seen.append(asked)

    monkeypatch.setattr("sys.argv", ["main", "--size", "3"])
    main()
    assert seen == [Asked(size=3)]


def test_a_command_shows_the_name_it_was_called_by_and_sets_of_defaults(capsys, monkeypatch):
    @command.command(sets={"ours": {}, "theirs": {"size": 9}})
    def main(asked: Asked) -> None:
        raise AssertionError("help comes first")

    monkeypatch.setattr("sys.argv", ["guided-diffusion main"])
    with pytest.raises(SystemExit) as stop:
        main(["--defaults", "theirs", "--help"])
    assert stop.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith("usage: guided-diffusion main [--FLAG VALUE ...] How a command starts")
    assert "side, pixels (default: 9)" in said
    assert main.parse(["--defaults", "theirs"]) == (Asked(size=9),)


@pytest.mark.parametrize("argv", [["--size", "0"], ["--sise", "1"], ["--size"], ["word"]])
def test_a_mistake_in_the_words_is_one_line_and_code_2_and_the_body_does_not_run(capsys, argv):
    with pytest.raises(SystemExit) as stop:
        raising(AssertionError)(argv)
    said = capsys.readouterr()
    assert stop.value.code == 2 and said.out == ""
    assert said.err.startswith("error: ") and said.err.count("\n") == 1


def test_a_command_with_a_device_joins_the_other_ranks_before_its_body(monkeypatch):
    calls = []

    @command.command()
    def main(asked: Asked, execution: ExecutionSettings) -> None:
        calls.append(execution.device)

    monkeypatch.setattr(dist_util, "setup_dist", lambda device: calls.append(f"set up {device}"))
    main(["--device", "cpu"])
    assert calls == ["set up cpu", "cpu"]
    calls.clear()
    command.command()(calls_without_a_device)([])
    assert calls == []


def calls_without_a_device(asked: Asked) -> None:
    assert not torch.distributed.is_initialized()


def test_every_script_runs_a_command_of_its_own_name():
    for script in sorted(path.stem for path in (ROOT / "scripts").glob("*.py")):
        main = load_script(script).main
        if script != "benchmark":
            assert isinstance(main, command.Command) and main.name == script
            assert main.description == load_script(script).__doc__


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (UserError("got it\nover two lines"), "got it over two lines"),
        (MissingExtraError("got it\nover two lines"), "got it over two lines"),
        (ArgumentError("flag", "got it\nover two lines"), "--flag: got it over two lines"),
    ],
)
def test_a_user_error_becomes_one_line_and_code_2(capsys, error, shown):
    with pytest.raises(SystemExit) as stop:
        raising(error)([])
    captured = capsys.readouterr()
    assert stop.value.code == 2 and captured.out == ""
    assert captured.err == f"error: {shown}\n"


@pytest.mark.parametrize("error", [ValueError, ImportError, OSError])
def test_other_errors_come_through_and_the_logger_is_closed(recorder, capsys, error):
    with pytest.raises(error, match="as it was"):
        raising(error("as it was"))([])
    assert recorder.closed and logger.Logger.CURRENT is None
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("options", "end"),
    [
        ({}, "; the same command again goes on"),
        ({"interrupted": command.STARTS_ANEW}, ", the same command again starts anew"),
    ],
)
def test_an_interruption_is_one_line_and_a_shells_code(capsys, options, end):
    with pytest.raises(SystemExit) as stop:
        raising(KeyboardInterrupt, **options)([])
    assert stop.value.code == command.INTERRUPTED == 130
    said = capsys.readouterr().err
    assert said.startswith("interrupted; ") and said.endswith(f"{end}\n") and said.count("\n") == 1


KEEPING = {
    "ablate_attention",
    "classifier_sample",
    "classifier_train",
    "frequency_generating_m_samples",
    "image_nll",
    "image_sample",
    "image_train",
    "imagenet_translation",
    "super_res_sample",
    "super_res_train",
    "synthetic_train",
}


@pytest.mark.parametrize("script", sorted(path.stem for path in (ROOT / "scripts").glob("*.py")))
def test_an_interrupted_command_promises_to_go_on_only_where_it_does(capsys, monkeypatch, script):
    def interrupt(*_):
        raise KeyboardInterrupt

    module = load_script(script)
    monkeypatch.setattr(parser._Parser, "parse_known_args", interrupt)
    with pytest.raises(SystemExit):
        module.main([])
    expected = command.GOES_ON if script in KEEPING else command.STARTS_ANEW
    assert capsys.readouterr().err == f"{expected}\n"


def test_what_the_system_refuses_is_one_line(capsys, tmp_path):
    @command.command()
    def main(asked: Asked) -> None:
        open(tmp_path / "none" / "file", "w")

    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"error: {tmp_path}/none/file: No such file or directory\n"


def test_an_end_at_once_has_words_of_its_own(capsys):
    with pytest.raises(SystemExit) as stop:
        raising(KeyboardInterrupt(stop_requests.AT_ONCE))([])
    assert stop.value.code == command.INTERRUPTED
    assert capsys.readouterr().err.startswith("interrupted at once, without what was not yet saved")


def test_a_command_that_ends_well_returns_nothing_and_closes_the_logger(recorder):
    @command.command()
    def main(asked: Asked) -> None:
        assert not recorder.closed

    assert main([]) is None
    assert recorder.closed


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("Unable to allocate 3.00 TiB for an array"),
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nSee docs"),
        RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory: 8 bytes"),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
    ],
)
def test_lack_of_memory_is_one_line_that_names_the_flags_to_lower(capsys, error):
    @command.command()
    def main(loop: DenoisingSettings, network: ModelSettings) -> None:
        raise error

    with pytest.raises(SystemExit) as stop:
        main([])
    said = capsys.readouterr().err
    assert stop.value.code == command.MISTAKE and said.count("\n") == 1
    advice = "lower --microbatch or --batch_size, or give --use_checkpoint True"
    assert said.startswith(f"error: out of memory; {advice}, or end other programs (")


def test_torch_says_that_memory_is_out_as_we_expect_it(capsys):
    @command.command()
    def main(asked: Asked) -> None:
        torch.empty(2**60, dtype=torch.uint8)

    with pytest.raises(SystemExit):
        main([])
    assert capsys.readouterr().err.startswith("error: out of memory; take smaller or fewer images")


def test_a_limit_of_time_ends_with_the_way_to_go_on(capsys):
    with pytest.raises(SystemExit) as stop:
        raising(stop_requests.TimeUp())([])
    assert stop.value.code == command.INTERRUPTED
    said = capsys.readouterr().err
    assert said == "stopped within the time limit; the same command again goes on\n"


def test_a_signal_while_a_command_tidies_up_does_not_cut_that_short(monkeypatch, capsys):
    done = []

    def tidy():
        if not done:
            signal.raise_signal(signal.SIGTERM)
        done.append(True)

    monkeypatch.setattr(dist_util, "cleanup", tidy)
    with pytest.raises(SystemExit) as stop:
        raising(UserError("as it was"))([])
    assert stop.value.code == 2 and done and capsys.readouterr().err == "error: as it was\n"


def test_a_training_that_diverged_is_one_line_and_a_code_of_its_own(capsys):
    with pytest.raises(SystemExit) as stopped:
        raising(DivergedError("step 8: the weights are not finite"))([])
    assert stopped.value.code == command.DIVERGED == 4
    assert capsys.readouterr().err == "error: step 8: the weights are not finite\n"
