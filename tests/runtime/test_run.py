"""The run folder: files whole or not at all, flags that may not change, noise per image."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.cli import ROOT, load_script

from guided_diffusion import dist_util, logger
from guided_diffusion.config import flags
from guided_diffusion.errors import ArgumentError, MissingExtraError, UserError, blame
from guided_diffusion.runtime import (
    atomic_files,
    command,
    progress_bars,
    random_streams,
    run_folder,
)


@pytest.mark.parametrize(("mode", "content"), [("wb", b"a\r\nb"), ("w", "a\r\nb\né")])
def test_a_written_file_holds_what_was_written_and_nothing_lies_beside_it(tmp_path, mode, content):
    path = tmp_path / "file"
    path.write_bytes(b"before")
    with atomic_files.atomic_write(path, mode) as file:
        file.write(content)
        assert path.read_bytes() == b"before"
    assert path.read_bytes() == (content if mode == "wb" else content.encode())
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("before", [None, b"before"])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_block_that_raises_leaves_what_was_there(tmp_path, before, error):
    path = tmp_path / "file"
    if before:
        path.write_bytes(before)
    with pytest.raises(error), atomic_files.atomic_write(path) as file:
        file.write(b"half")
        raise error
    assert [p.read_bytes() for p in tmp_path.iterdir()] == ([before] if before else [])


def test_a_file_in_a_folder_that_is_missing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_files.atomic_write(tmp_path / "no" / "file"):
        pass


def test_claim_makes_the_folder_and_records_the_run(tmp_path):
    folder = tmp_path / "a" / "b"
    run_folder.claim(folder, "script", {"lr": 0.1, "name": "x"}, set())
    record = json.loads((folder / "args.json").read_text())
    assert record["script"] == "script" and record["args"] == {"lr": 0.1, "name": "x"}
    assert record["versions"] == run_folder.versions()
    assert record["versions"].keys() == {"guided_diffusion", "python", "torch", "numpy"}
    assert run_folder.read_args(folder / "args.json") == record


def test_claim_of_the_same_run_passes_and_records_free_flags_anew(tmp_path):
    run_folder.claim(tmp_path, "script", {"lr": 0.1, "every": 5}, {"every"})
    run_folder.claim(tmp_path, "script", {"lr": 0.1, "every": 7}, {"every"})
    assert run_folder.read_args(tmp_path / "args.json")["args"] == {"lr": 0.1, "every": 7}


def test_claim_refuses_other_flags_and_names_both_values_of_each(tmp_path):
    run_folder.claim(tmp_path, "script", {"lr": 0.1, "seed": 0, "name": "a"}, set())
    before = (tmp_path / "args.json").read_bytes()
    with pytest.raises(UserError) as refused:
        run_folder.claim(tmp_path, "script", {"lr": 0.2, "seed": 0, "name": "b"}, set())
    message = str(refused.value)
    assert "--lr was 0.1, is 0.2; --name was 'a', is 'b'" in message
    assert "--seed" not in message and str(tmp_path) in message
    assert (tmp_path / "args.json").read_bytes() == before


def test_claim_tells_of_weights_that_changed_in_words(tmp_path):
    before = {"target_model.sha256": "0123456789", "stages.my_b.sha256": "aaaaaaaaaa", "lr": 1}
    run_folder.claim(tmp_path, "script", before, set())
    after = before | {"target_model.sha256": "9876543210", "stages.my_b.sha256": "bbbbbbbbbb"}
    with pytest.raises(UserError) as refused:
        run_folder.claim(tmp_path, "script", after, set())
    assert str(refused.value) == (
        f"out_dir: {tmp_path} holds a run of other weights (the weights of the target model have "
        "changed since, sha256 01234567 then and 98765432 now; the weights of stage my_b have "
        "changed since, sha256 aaaaaaaa then and bbbbbbbb now); give the same weights to continue "
        "it, or another folder"
    )
    with pytest.raises(UserError, match="of other flags .*weights of the target.*; --lr was 1, is"):
        run_folder.claim(tmp_path, "script", after | {"lr": 2}, set())


def test_asking_before_a_claim_writes_nothing(tmp_path):
    run_folder.refuse_other_run(tmp_path / "new", "script", {"lr": 0.1}, set())
    assert not list(tmp_path.iterdir())
    run_folder.claim(tmp_path, "script", {"lr": 0.1}, set())
    with pytest.raises(UserError, match="--lr was 0.1, is 0.2"):
        run_folder.refuse_other_run(tmp_path, "script", {"lr": 0.2}, set())


def test_claim_takes_a_folder_of_a_version_with_other_flags(tmp_path):
    run_folder.claim(tmp_path, "script", {"old": 1, "lr": 0.1}, set())
    run_folder.claim(tmp_path, "script", {"new": 2, "lr": 0.1}, set())
    assert run_folder.read_args(tmp_path / "args.json")["args"] == {"new": 2, "lr": 0.1}


def test_claim_removes_what_a_killed_run_left_half_written(tmp_path):
    (tmp_path / "images").mkdir()
    left = tmp_path / "images" / ".01.png.4711.partial"
    left.write_bytes(b"half")
    (tmp_path / "images" / "01.png").write_bytes(b"whole")
    other = tmp_path / "other_run"
    other.mkdir()
    (other / "args.json").write_text("{}")
    (other / ".model.pt.4711.partial").write_bytes(b"being written")
    run_folder.claim(tmp_path, "script", {"a": 1}, set())
    assert not left.exists() and (tmp_path / "images" / "01.png").exists()
    assert (other / ".model.pt.4711.partial").exists()


def test_claim_refuses_the_folder_of_another_script(tmp_path):
    run_folder.claim(tmp_path, "train", {}, set())
    with pytest.raises(UserError, match="a run of 'train', not of 'sample'"):
        run_folder.claim(tmp_path, "sample", {}, set())


def test_claim_refuses_a_file_in_the_place_of_the_folder(tmp_path):
    path = tmp_path / "file"
    path.write_text("kept")
    with pytest.raises(UserError, match="out_dir: expected a folder"):
        run_folder.claim(path / "below", "script", {}, set())
    with pytest.raises(UserError, match="out_dir: expected a folder"):
        run_folder.claim(path, "script", {}, set())
    assert path.read_text() == "kept"


def test_only_the_first_rank_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(dist_util, "rank", lambda: 1)
    run_folder.claim(tmp_path, "script", {}, set())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", '"args"', "null", '{"script": "x"}', '{"args": []}', b"\xff\xfe{}"],
)
def test_broken_args_are_refused_by_name(tmp_path, text):
    path = tmp_path / "args.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match="args.json: expected JSON with an 'args' object"):
        run_folder.read_args(path)
    with pytest.raises(UserError, match="args.json"):
        run_folder.claim(tmp_path, "script", {}, set())


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


@pytest.mark.parametrize(
    ("error", "words", "shown"),
    [
        (UserError, (), ""),
        (MissingExtraError, (), ""),
        (ArgumentError, ("flag",), "--flag: "),
    ],
)
def test_a_user_error_becomes_one_line_and_code_2(capsys, error, words, shown):
    @command.command
    def main(argv=None):
        raise error(*words, f"got {argv}\nover two lines")

    with pytest.raises(SystemExit) as stop:
        main(["x"])
    captured = capsys.readouterr()
    assert stop.value.code == 2 and captured.out == ""
    assert captured.err == f"error: {shown}got ['x'] over two lines\n"


@pytest.mark.parametrize("error", [ValueError, ImportError, OSError])
def test_other_errors_come_through_and_the_logger_is_closed(recorder, capsys, error):
    @command.command
    def main(argv=None):
        raise error("as it was")

    with pytest.raises(error, match="as it was"):
        main()
    assert recorder.closed and logger.Logger.CURRENT is None
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("decorator", "end"),
    [
        (command.command, "; the same command again goes on"),
        (command.command(interrupted=command.STARTS_ANEW), ", the same command again starts anew"),
    ],
)
def test_an_interruption_is_one_line_and_a_shells_code(capsys, decorator, end):
    @decorator
    def main(argv=None):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop:
        main([])
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
    monkeypatch.setattr(flags._Parser, "parse_known_args", interrupt)
    with pytest.raises(SystemExit):
        module.main([])
    expected = command.GOES_ON if script in KEEPING else command.STARTS_ANEW
    assert capsys.readouterr().err == f"{expected}\n"


def test_what_the_system_refuses_is_one_line(capsys, tmp_path):
    @command.command
    def main(argv=None):
        open(tmp_path / "none" / "file", "w")

    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"error: {tmp_path}/none/file: No such file or directory\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted_the_second_passed_over_and_the_third_ends(number):
    before = signal.getsignal(number)
    with command.StopSignal() as stop:
        assert not stop.asked
        signal.raise_signal(number)
        assert stop.asked
        signal.raise_signal(number)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt, match="interrupted at once"):
            signal.raise_signal(number)
    assert signal.getsignal(number) == before


def test_an_end_at_once_has_words_of_its_own(capsys):
    @command.command
    def main(argv=None):
        raise KeyboardInterrupt(command.AT_ONCE)

    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == command.INTERRUPTED
    assert capsys.readouterr().err.startswith("interrupted at once, without what was not yet saved")


def test_places_are_the_same_by_another_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiles").mkdir()
    run_folder.claim(tmp_path / "run", "s", {"data_dir": "tiles", "note": "tiles"}, set())
    run_folder.claim(
        tmp_path / "run", "s", {"data_dir": f"{tmp_path}/tiles/", "note": "tiles"}, set()
    )
    with pytest.raises(UserError, match="--note was 'tiles', is './tiles'"):
        run_folder.claim(tmp_path / "run", "s", {"data_dir": "tiles", "note": "./tiles"}, set())
    with pytest.raises(UserError, match="--data_dir was"):
        run_folder.claim(tmp_path / "run", "s", {"data_dir": "other", "note": "tiles"}, set())


def test_a_command_that_ends_well_returns_nothing_and_closes_the_logger(recorder):
    seen = []
    assert command.command(seen.append)(["--a"]) is None
    assert seen == [["--a"]] and recorder.closed


def test_noise_generators_take_numpy_indices():
    expected = random_streams.ImageNoise(0, [3]).draw((2,))
    assert torch.equal(random_streams.ImageNoise(0, np.array([3])).draw((2,)), expected)


def test_progress_passes_its_items_on():
    assert list(progress_bars.progress(iter("abc"), total=3, unit="letter")) == ["a", "b", "c"]


def test_paths_may_be_text(tmp_path):
    with atomic_files.atomic_write(str(tmp_path / "file"), "w") as file:
        file.write("x")
    assert Path(tmp_path / "file").read_text() == "x"


def test_a_reserved_file_has_its_size(tmp_path):
    with open(tmp_path / "file", "w+b") as file:
        atomic_files.reserve(file, 10_000)
    assert (tmp_path / "file").stat().st_size == 10_000


def test_a_full_disk_is_a_user_error_that_names_the_flag(tmp_path, monkeypatch):
    def full(descriptor, offset, size):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic_files.os, "posix_fallocate", full, raising=False)
    with (
        open(tmp_path / "file", "w+b") as file,
        pytest.raises(UserError, match="flag: 2.00 GB of disk.*No space left"),
        blame("flag"),
    ):
        atomic_files.reserve(file, 2 * 10**9)
