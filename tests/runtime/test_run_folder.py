"""The run folder: what it records, which other runs it refuses, and in which words."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
from support.cli import load_script, snapshot

from guided_diffusion import dist_util
from guided_diffusion.config.network_settings import ClassifierSettings, ModelSettings
from guided_diffusion.diffusion.settings import ProcessSettings
from guided_diffusion.errors import ArgumentError, UserError
from guided_diffusion.generation.plan import Plan
from guided_diffusion.generation.settings import SequenceSettings
from guided_diffusion.models.domains import Domain, identity_of
from guided_diffusion.runtime import atomic_files, run_folder
from guided_diffusion.runtime.run_folder import PER_STEP, RunFolder
from guided_diffusion.sampling.guidance import Guided


def claim(path, asked, command="script", **options):
    RunFolder(path, command, asked, **options).claim()


def recorded(path):
    return run_folder.read_args(path / "args.json")


def test_claim_makes_the_folder_and_records_the_run(tmp_path):
    folder = tmp_path / "a" / "b"
    claim(folder, {"lr": 0.1, "name": "x"})
    record = json.loads((folder / "args.json").read_text())
    assert record["script"] == "script" and record["args"] == {"lr": 0.1, "name": "x"}
    assert record["versions"] == run_folder.versions()
    assert record["versions"].keys() == {"guided_diffusion", "python", "torch", "numpy"}
    assert run_folder.read_args(folder / "args.json") == record


def test_what_settings_came_to_stands_beside_what_was_asked(tmp_path):
    run = RunFolder(tmp_path, "script", {"precision": "auto", "lr": 0.1})
    run.claim(precision="bf16", processes=2)
    assert recorded(tmp_path)["args"] == {"precision": "auto", "lr": 0.1}
    assert recorded(tmp_path)["resolved"] == {"precision": "bf16", "processes": 2}
    run.claim(precision="fp32", processes=1)  # the same was asked, on another machine
    assert recorded(tmp_path)["resolved"] == {"precision": "fp32", "processes": 1}


def test_a_record_that_says_the_same_already_is_left_alone(tmp_path):
    run = RunFolder(tmp_path, "script", {"lr": 0.1})
    run.claim(precision="fp32")
    before = (tmp_path / "args.json").stat()
    run.claim(precision="fp32")
    after = (tmp_path / "args.json").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_run_folder_is_a_value(tmp_path):
    run = RunFolder(tmp_path, "script", {"lr": 0.1})
    with pytest.raises(dataclasses.FrozenInstanceError):
        run.path = tmp_path / "other"
    assert run == RunFolder(tmp_path, "script", {"lr": 0.1})


def test_claim_of_the_same_run_passes_and_records_free_flags_anew(tmp_path):
    claim(tmp_path, {"lr": 0.1, "every": 5}, free={"every"})
    claim(tmp_path, {"lr": 0.1, "every": 7}, free={"every"})
    assert run_folder.read_args(tmp_path / "args.json")["args"] == {"lr": 0.1, "every": 7}


def test_claim_refuses_other_flags_and_names_both_values_of_each(tmp_path):
    claim(tmp_path, {"lr": 0.1, "seed": 0, "name": "a"})
    before = (tmp_path / "args.json").read_bytes()
    with pytest.raises(UserError) as refused:
        claim(tmp_path, {"lr": 0.2, "seed": 0, "name": "b"})
    message = str(refused.value)
    assert "--lr was 0.1, is 0.2; --name was 'a', is 'b'" in message
    assert "--seed" not in message and str(tmp_path) in message
    assert (tmp_path / "args.json").read_bytes() == before


def test_claim_tells_of_weights_that_changed_in_words(tmp_path):
    before = {"target_model.sha256": "0123456789", "stages.my_b.sha256": "aaaaaaaaaa", "lr": 1}
    claim(tmp_path, before)
    after = before | {"target_model.sha256": "9876543210", "stages.my_b.sha256": "bbbbbbbbbb"}
    with pytest.raises(UserError) as refused:
        claim(tmp_path, after)
    assert str(refused.value) == (
        f"out_dir: {tmp_path} holds a run of other weights (the weights of the target model have "
        "changed since, sha256 01234567 then and 98765432 now; the weights of stage my_b have "
        "changed since, sha256 aaaaaaaa then and bbbbbbbb now); give the same weights to continue "
        "it, or another folder"
    )
    with pytest.raises(UserError, match="of other flags .*weights of the target.*; --lr was 1, is"):
        claim(tmp_path, after | {"lr": 2})


def test_asking_before_a_claim_writes_nothing(tmp_path):
    RunFolder(tmp_path / "new", "script", {"lr": 0.1}).refuse_other_run()
    assert not list(tmp_path.iterdir())
    claim(tmp_path, {"lr": 0.1})
    with pytest.raises(UserError, match="--lr was 0.1, is 0.2"):
        RunFolder(tmp_path, "script", {"lr": 0.2}).refuse_other_run()
    assert [*snapshot(tmp_path)] == ["args.json"]


NAMES = {
    "lr": "--lr was",
    PER_STEP: "--batch_size times the number of processes was",
    "stages.names": "the names in --stages were",
    "source_model.image_size": "--image_size of the source model was",
    "target_model.learn_sigma": "--learn_sigma of the target model was",
    "stages.adenoma.image_size": "--image_size of stage adenoma was",
    "stages.v1.2.image_size": "--image_size of stage v1.2 was",
    "model.dropout": "--dropout of the model was",
    "classifier.classifier_width": "--classifier_width of the classifier was",
}


@pytest.mark.parametrize("name", NAMES)
def test_each_difference_is_told_in_words_of_flags(tmp_path, name):
    claim(tmp_path, {name: 4})
    with pytest.raises(ArgumentError) as refused:
        claim(tmp_path, {name: 8})
    be = "are" if name == "stages.names" else "is"
    assert f"holds a run of other flags ({NAMES[name]} 4, {be} 8); give the same flags to" in str(
        refused.value
    )
    assert refused.value.report.startswith("--out_dir: ")


SHA = "0123456789abcdef"


def of_training(name):
    command = load_script(name).main
    return command, command.defaults | {PER_STEP: 1}


def of_sequences(stages):
    module = load_script("frequency_generating_m_samples")
    asked = SequenceSettings(stages=stages, data_dir="x")
    plan = Plan.of(asked)
    domains = {stage.name: domain(ModelSettings()) for stage in plan.stages}
    everything = module.main.defaults | asked.values()
    return module.main, module.run_folder(everything, plan, domains).asked


def of_classes(name):
    command = load_script(name).main
    guided = Guided(domain(ModelSettings()), domain(ClassifierSettings(), num_classes=3))
    return command, identity_of(guided.models)


def domain(network, **options):
    process = ProcessSettings()
    return Domain(None, None, "toy", Path("toy.pt"), network, process, sha256=SHA, **options)


@pytest.mark.parametrize(
    ("record", "name"),
    [
        (of_training, "image_train"),
        (of_training, "super_res_train"),
        (of_training, "classifier_train"),
        (of_training, "synthetic_train"),
        (of_sequences, ""),
        (of_sequences, "normal=a,adenoma=b,cancer=c"),
        (of_classes, "imagenet_translation"),
    ],
)
def test_every_entry_of_a_record_is_told_by_a_flag_that_exists_or_as_weights(record, name):
    command, asked = record(name)
    flags = {flag for action in command.parser()._actions for flag in action.option_strings}
    for name, value in asked.items():
        words = run_folder.difference(name, value, value)
        named = re.findall(r"--\w+", words)
        if name.endswith("sha256"):
            assert words.startswith("the weights of ") and not named
        else:
            assert len(named) == 1 and named[0] in flags, words


def test_advice_ends_what_a_refusal_says(tmp_path):
    claim(tmp_path, {"lr": 0.1})
    with pytest.raises(UserError, match="or another folder; or go home$"):
        claim(tmp_path, {"lr": 0.2}, advice="; or go home")
    with pytest.raises(UserError, match="of 'script', not of 'other'; choose another folder$"):
        claim(tmp_path, {"lr": 0.2}, "other", advice="; or go home")


def test_claim_takes_a_folder_of_a_version_with_other_flags(tmp_path):
    claim(tmp_path, {"old": 1, "lr": 0.1})
    claim(tmp_path, {"new": 2, "lr": 0.1})
    assert run_folder.read_args(tmp_path / "args.json")["args"] == {"new": 2, "lr": 0.1}


def test_what_an_older_record_lacks_had_its_default(tmp_path):
    older = {"script": "script", "args": {"lr": 0.1}}  # without versions and what was resolved
    (tmp_path / "args.json").write_text(json.dumps(older))
    meant = {"lr": 0.5, "solver": "ddim"}
    with pytest.raises(UserError, match=r"\(--solver was 'ddim', is 'dpmpp'\)"):
        claim(tmp_path, {"lr": 0.1, "solver": "dpmpp"}, older=meant)
    assert recorded(tmp_path) == older
    claim(tmp_path, {"lr": 0.1, "solver": "ddim"}, older=meant)
    assert recorded(tmp_path)["args"] == {"lr": 0.1, "solver": "ddim"}
    assert recorded(tmp_path)["resolved"] == {}


# Names of other programs, and of this one's versions before 1.1, which cannot be told from them.
NOT_OURS = (
    ".notes.partial .01.png.4711.partial .target.npy.partial a.0123abcd.guided-diffusion.partial "
    ".x.0123ABCD.guided-diffusion.partial .x.123.guided-diffusion.partial .guided-diffusion.partial"
).split()


def test_what_is_being_written_by_another_process_stays(tmp_path):
    with atomic_files.atomic_write(tmp_path / "report.json") as file:
        claim(tmp_path, {"a": 1})  # opens the file anew, as another process would
        file.write(b"{}")
    assert (tmp_path / "report.json").read_bytes() == b"{}"


def test_claim_removes_what_a_killed_run_left_half_written(tmp_path):
    (tmp_path / "images").mkdir()
    left = atomic_files.partial_of(tmp_path / "images" / "01.png")
    left.write_bytes(b"half")
    others = [tmp_path / "images" / name for name in NOT_OURS]
    for path in others:
        path.write_bytes(b"of the user")
    (tmp_path / "images" / "01.png").write_bytes(b"whole")
    other = tmp_path / "other_run"
    other.mkdir()
    (other / "args.json").write_text("{}")
    of_other = atomic_files.partial_of(other / "model.pt")
    of_other.write_bytes(b"being written")
    claim(tmp_path, {"a": 1})
    assert not left.exists() and (tmp_path / "images" / "01.png").exists()
    assert of_other.exists() and all(path.exists() for path in others)


def test_claim_refuses_the_folder_of_another_script(tmp_path):
    claim(tmp_path, {}, "train")
    with pytest.raises(UserError, match="a run of 'train', not of 'sample'"):
        claim(tmp_path, {}, "sample")


def test_claim_refuses_a_file_in_the_place_of_the_folder(tmp_path):
    path = tmp_path / "file"
    path.write_text("kept")
    with pytest.raises(UserError, match="out_dir: expected a folder"):
        claim(path / "below", {})
    with pytest.raises(UserError, match="out_dir: expected a folder"):
        claim(path, {})
    assert path.read_text() == "kept"


def test_only_the_first_rank_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(dist_util, "rank", lambda: 1)
    claim(tmp_path, {})
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
        claim(tmp_path, {})


def test_places_are_the_same_by_another_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiles").mkdir()
    claim(tmp_path / "run", {"data_dir": "tiles", "note": "tiles"})
    claim(tmp_path / "run", {"data_dir": f"{tmp_path}/tiles/", "note": "tiles"})
    with pytest.raises(UserError, match="--note was 'tiles', is './tiles'"):
        claim(tmp_path / "run", {"data_dir": "tiles", "note": "./tiles"})
    with pytest.raises(UserError, match="--data_dir was"):
        claim(tmp_path / "run", {"data_dir": "other", "note": "tiles"})


def test_the_folder_of_a_run_is_one_of_its_own_for_each_choice():
    defaults = {"steps": 4, "out_dir": "", "new": 0}

    def folder(**asked):
        return run_folder.default_folder("run", asked, {"out_dir"}, defaults)

    usual = folder(steps=4, out_dir="")
    assert re.fullmatch(r"results/run_[0-9a-f]{8}", usual.as_posix())
    assert folder(steps=4, out_dir="elsewhere") == usual  # free
    assert folder(steps=4, out_dir="", new=0) == usual  # a later setting at its default
    assert len({usual, folder(steps=5, out_dir=""), folder(steps=4, out_dir="", new=1)}) == 3
