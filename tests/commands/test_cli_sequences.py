"""`frequency_generating_m_samples.py` as a user runs it: files, resuming, each flag's effect."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from support.cli import (
    SEQUENCES,
    TINY_MODEL,
    Killed,
    call,
    draw_images,
    grey_levels_apart,
    picture,
    read_csv,
    snapshot,
    succeed,
    working_directory,
)

from guided_diffusion.generation import export
from guided_diffusion.translation import depth_policies, encode_decode

AMOUNT, COUNT = 3, 3
FOLDER = "translation_0_1"


@pytest.fixture(scope="module")
def made(runs, tmp_path_factory):
    """A generation run of three sequences with everything saved; to be left as it is."""
    return make(runs, tmp_path_factory.mktemp("made") / "run")


def make(runs, out_dir, *flags):
    succeed(SEQUENCES, *runs.sequences, "--save_latents", "True", "--out_dir", out_dir, *flags)
    return out_dir / FOLDER


@pytest.fixture
def copied(made, tmp_path):
    """A copy of `made`, with the out_dir to continue it in."""
    shutil.copytree(made.parent, tmp_path / "run")
    return tmp_path / "run" / FOLDER


@pytest.fixture
def saved(monkeypatch):
    """The indices of the sequences that are saved from now on."""
    indices = []
    save = export.Exporter.save

    def noting(self, sequence):
        indices.append(sequence.index)
        save(self, sequence)

    monkeypatch.setattr(export.Exporter, "save", noting)
    return indices


def images(folder):
    """Every picture of a run: {name: pixels}."""
    return {p.relative_to(folder).as_posix(): picture(p) for p in folder.glob("images/*/*.png")}


def assert_same_pictures(one, other):
    one, other = images(one), images(other)
    assert one.keys() == other.keys() and len(one) == COUNT * (AMOUNT + 1)
    assert max(grey_levels_apart(one[name], other[name]) for name in one) <= 1


def differing(one, other):
    """The names of files that two folders do not share."""
    one, other = snapshot(one), snapshot(other)
    return {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}


def test_a_run_leaves_the_files_of_the_design(made):
    names = {f"images/{i:05d}/{step:02d}.png" for i in range(COUNT) for step in range(AMOUNT + 1)}
    arrays = {f"{name}.npy" for name in ("source", "target", "diffway", "latent")}
    assert snapshot(made).keys() == names | arrays | {"manifest.csv", "contact_sheet.png"}
    logs = {"args.json", "log.txt", "progress.csv", "progress.jsonl"}
    assert {path.name for path in made.parent.iterdir()} == logs | {FOLDER}


def test_soft_labels_in_the_manifest_sum_to_1_and_rise_by_step(made):
    rows = read_csv(made / "manifest.csv")
    assert list(rows[0])[0] == "file_name"
    assert len(rows) == COUNT * (AMOUNT + 1)
    for place, row in enumerate(rows):
        sequence, step = divmod(place, AMOUNT + 1)
        assert (row["sequence"], row["step"]) == (f"{sequence:05d}", str(step))
        assert (row["source"], row["target"]) == ("0", "1")
        assert float(row["label_0"]) + float(row["label_1"]) == pytest.approx(1, abs=1e-9)
        assert float(row["label_1"]) == pytest.approx(step / AMOUNT, abs=1e-9)


def test_depths_are_those_of_the_respaced_process_and_timesteps_the_original_ones(made):
    kept = [0, 6, 11, 17, 22, 28, 33, 39]  # 8 of 40, evenly
    for row in read_csv(made / "manifest.csv"):
        expected = -1 if row["depth"] == "0" else kept[int(row["depth"]) - 1]
        assert int(row["timestep"]) == expected
        assert (row["step"] == "0") <= (row["depth"] == "0")


def test_step_0_is_the_source_image_itself(runs, made):
    for row in read_csv(made / "manifest.csv"):
        if row["step"] == "0":
            assert np.array_equal(picture(made / row["file_name"]), picture(row["source_file"]))
    first = sorted(runs.images.iterdir())[:COUNT]
    assert sorted({row["source_file"] for row in read_csv(made / "manifest.csv")}) == [
        str(path) for path in first
    ]


def test_images_of_an_npz_make_the_sequences_of_those_in_a_folder(runs, made, tmp_path):
    tiles = np.stack([picture(file) for file in sorted(runs.images.iterdir())])
    np.savez(tmp_path / "a.npz", tiles)
    flags = [*runs.sequences, "--data_dir", tmp_path / "a.npz", "--out_dir", tmp_path / "run"]
    succeed(SEQUENCES, *flags)
    folder = tmp_path / "run" / "translation_0_1"
    for name in ("source.npy", "target.npy", "diffway.npy"):
        assert (folder / name).read_bytes() == (made / name).read_bytes()
    rows = read_csv(folder / "manifest.csv")
    assert rows[-1]["source_file"] == f"{tmp_path / 'a.npz'}#2"


def test_arrays_hold_what_the_pictures_and_the_manifest_hold(made):
    source, target, diffway, latent = (
        np.load(made / f"{name}.npy", allow_pickle=False)
        for name in ("source", "target", "diffway", "latent")
    )
    assert source.shape == (COUNT, 3, 16, 16) and source.dtype == np.uint8
    assert target.shape == (COUNT, AMOUNT, 3, 16, 16) and target.dtype == np.uint8
    assert latent.shape == target.shape and latent.dtype == np.float16
    assert diffway.shape == (COUNT, AMOUNT) and diffway.dtype == np.int64
    for row in read_csv(made / "manifest.csv"):
        index, step = int(row["sequence"]), int(row["step"])
        held = source[index] if step == 0 else target[index, step - 1]
        assert np.array_equal(np.moveaxis(held, 0, -1), picture(made / row["file_name"]))
        assert step == 0 or int(row["depth"]) == diffway[index, step - 1]
    assert np.isfinite(latent).all() and latent.std() > 0.3


def test_the_images_of_a_sequence_are_neither_blank_nor_all_the_same(made):
    target = np.load(made / "target.npy")
    assert target.std(axis=(2, 3, 4)).min() > 3
    assert grey_levels_apart(target[0, 0], target[0, -1]) > 3


def test_a_picture_carries_its_provenance(runs, made):
    with Image.open(made / "images" / "00001" / "02.png") as image:
        text = image.text
    row = read_csv(made / "manifest.csv")[AMOUNT + 1 + 2]
    assert len(text.pop("crc32")) == 8
    assert text == {key: value for key, value in row.items() if key != "file_name"}
    assert text["source_model"] == str(runs.source / "ema_0.5_000008.pt")


def test_the_run_folder_records_flags_and_one_row_per_sequence(runs, made):
    record = json.loads((made.parent / "args.json").read_text())
    assert record["script"] == SEQUENCES
    assert record["args"]["amount"] == AMOUNT and record["args"]["save_latents"] is True
    trained = json.loads((runs.target / "args.json").read_text())["args"]
    assert record["args"]["target_model.num_channels"] == trained["num_channels"]
    assert "num_channels" not in record["args"]
    lines = (made.parent / "progress.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["sequence"] for row in rows] == list(range(COUNT))
    diffway = np.load(made / "diffway.npy")
    assert [row["depths"] for row in rows] == [" ".join(map(str, line)) for line in diffway]
    assert "contact_sheet.png" in (made.parent / "log.txt").read_text()


def test_pictures_do_not_depend_on_batch_sizes(runs, made, tmp_path):
    sizes = ["--batch_size", 3, "--max_batch", 2, "--trajectory_memory", 0]
    assert_same_pictures(make(runs, tmp_path, *sizes), made)


def test_the_same_command_again_makes_no_forward_and_touches_no_file(runs, copied, monkeypatch):
    def never(*args):
        raise AssertionError("a network was asked")

    monkeypatch.setattr(encode_decode.Predictor, "_predict", never)
    before = {path: path.stat().st_mtime_ns for path in copied.rglob("*")}
    content = snapshot(copied)
    make(runs, copied.parent, "--batch_size", 2)
    assert snapshot(copied) == content
    assert {path: path.stat().st_mtime_ns for path in copied.rglob("*")} == before


def test_a_sequence_without_its_rows_is_made_again_alone(runs, made, copied, saved):
    manifest = copied / "manifest.csv"
    lines = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join(line for line in lines if ",00001," not in line))
    make(runs, copied.parent, "--batch_size", 3)
    assert saved == [1]
    assert read_csv(manifest) == read_csv(made / "manifest.csv")
    assert_same_pictures(copied, made)


def test_a_sequence_without_a_picture_is_made_again_alone(runs, made, copied, saved):
    (copied / "images" / "00002" / "01.png").unlink()
    make(runs, copied.parent)
    assert saved == [2]
    assert differing(copied, made) == set()


def test_a_missing_array_is_filled_from_the_pictures_and_latents_are_made_again(
    runs, made, copied, saved
):
    for name, again in (("target.npy", []), ("latent.npy", [0, 1, 2])):
        (copied / name).unlink()
        make(runs, copied.parent)
        assert saved == again
        assert differing(copied, made) == set()


def test_an_interrupted_run_resumes_after_its_last_whole_sequence(
    runs, made, tmp_path, monkeypatch
):
    save = export.Exporter.save
    saved = []

    def second_time_fails(self, sequence):
        if saved:
            raise Killed
        saved.append(sequence.index)
        save(self, sequence)

    monkeypatch.setattr(export.Exporter, "save", second_time_fails)
    with pytest.raises(Killed):
        make(runs, tmp_path)
    assert (tmp_path / FOLDER / "manifest.part000.csv").exists()

    assert not list((tmp_path / FOLDER).glob("*.npy"))

    def counted(self, sequence):
        saved.append(sequence.index)
        save(self, sequence)

    monkeypatch.setattr(export.Exporter, "save", counted)
    assert differing(make(runs, tmp_path), made) == set()
    assert saved == [0, 1, 2]


@pytest.mark.parametrize("fails", [True, False])
def test_a_depth_search_that_fails_is_noted_in_manifest_and_log(runs, tmp_path, monkeypatch, fails):
    found = depth_policies.Depths((2, 4, 5), fallback=fails)
    monkeypatch.setattr(depth_policies, "search_levels", lambda values, amount: found)
    folder = make(runs, tmp_path)
    rows = read_csv(folder / "manifest.csv")
    assert {row["depth_fallback"] for row in rows} == {str(fails)}
    log = (tmp_path / "log.txt").read_text()
    assert log.count("the depth search failed; depths evenly spaced") == (COUNT if fails else 0)
    assert f"{COUNT if fails else 0} of {COUNT} depth searches fell back" in log
    progress = (tmp_path / "progress.jsonl").read_text().splitlines()
    assert [json.loads(line)["fallback"] for line in progress] == [int(fails)] * COUNT


def test_a_preset_sets_the_flags_that_are_not_given(runs, tmp_path):
    folder = make(runs, tmp_path, "--preset", "draft", "--encode_steps", 5, "--decode_steps", 4)
    used = json.loads((tmp_path / "args.json").read_text())["args"]
    assert (used["solver"], used["encode_steps"], used["decode_steps"]) == ("dpmpp", 5, 4)
    assert {row["level_convention"] for row in read_csv(folder / "manifest.csv")} == {"aligned"}


def test_more_steps_of_the_multistep_solver_end_nearer_to_every_step(runs, tmp_path):
    fixed = ["--depth_policy", "uniform", "--timestep_respacing", "", "--preset", "draft"]
    ends = {}
    for steps in (0, 6, 25):
        few = ["--encode_steps", steps, "--decode_steps", steps]
        folder = make(runs, tmp_path / str(steps), *fixed, *few)
        ends[steps] = np.load(folder / "target.npy").astype(int)
    apart = {steps: np.abs(ends[steps] - ends[0]).mean() for steps in (6, 25)}
    assert apart[25] < 0.7 * apart[6]


def test_uniform_depths_end_at_full_depth(runs, tmp_path):
    folder = make(runs, tmp_path, "--depth_policy", "uniform")
    assert np.load(folder / "diffway.npy").tolist() == [[3, 5, 8]] * COUNT
    assert {row["depth_policy"] for row in read_csv(folder / "manifest.csv")} == {"uniform"}


def test_aligned_levels_change_the_latents_and_are_noted(runs, made, tmp_path):
    folder = make(runs, tmp_path, "--level_convention", "aligned")
    assert {row["level_convention"] for row in read_csv(folder / "manifest.csv")} == {"aligned"}
    assert {row["level_convention"] for row in read_csv(made / "manifest.csv")} == {"reference"}
    latents = [np.load(place / "latent.npy").astype(float) for place in (folder, made)]
    assert abs(latents[0] - latents[1]).max() > 0.01


def test_arrays_are_written_as_asked(runs, tmp_path):
    folder = make(runs, tmp_path, "--save_npy", "False", "--save_latents", "False")
    assert not list(folder.glob("*.npy"))
    assert len(read_csv(folder / "manifest.csv")) == COUNT * (AMOUNT + 1)


def test_bf16_changes_the_latents_little(runs, tmp_path):
    steady = ["--depth_policy", "uniform", "--num_images", 2]
    half, full = (
        np.load(make(runs, tmp_path / precision, "--precision", precision, *steady) / "latent.npy")
        for precision in ("bf16", "fp32")
    )
    error = np.linalg.norm((half - full).astype(float)) / np.linalg.norm(full.astype(float))
    assert 1e-4 < error < 0.05


def test_the_published_flags_with_equals_signs_and_1000_steps(runs, tmp_path):
    published = ["--diffusion_steps=1000", "--amount=10", "--timestep_respacing=20"]
    folder = make(runs, tmp_path, *published, "--num_images=1")
    assert len(list((folder / "images" / "00000").glob("*.png"))) == 11
    rows = read_csv(folder / "manifest.csv")
    assert float(rows[1]["label_1"]) == pytest.approx(0.1)
    kept = {round(i * 999 / 19) for i in range(20)} | {-1}
    assert {int(row["timestep"]) for row in rows} <= kept


def test_checkpoints_without_flags_beside_them_take_those_of_the_command_line(runs, made, tmp_path):
    for role in ("source", "target"):
        (tmp_path / role).mkdir()
        shutil.copy(getattr(runs, role) / "ema_0.5_000008.pt", tmp_path / role)
    alone = [f"--{role}_model={tmp_path / role}/ema_0.5_000008.pt" for role in ("source", "target")]
    out_dir = tmp_path / "run"
    refused = call(SEQUENCES, *runs.sequences, *alone, "--out_dir", out_dir)
    assert refused.code == 2 and "(check --num_channels)" in refused.last
    assert not out_dir.exists()
    published = "--resblock_updown False --learn_sigma False --num_head_channels -1".split()
    order = ["--use_new_attention_order", "False"]
    assert_same_pictures(make(runs, out_dir, *alone, *TINY_MODEL, *published, *order), made)
    by_role = call(
        SEQUENCES,
        *runs.sequences,
        *alone,
        *TINY_MODEL,
        *published,
        "--out_dir",
        tmp_path / "by_role",
    )
    assumed = [line for line in by_role.out.splitlines() if "no args.json beside it" in line]
    assert [line.split(":")[0] for line in assumed] == [alone[0][15:], alone[1][15:]]
    assert "--use_new_attention_order True" in assumed[0]
    assert "--use_new_attention_order False" in assumed[1]


def test_ddim_respacing_visits_every_fifth_timestep(runs, tmp_path):
    folder = make(runs, tmp_path, "--timestep_respacing", "ddim8", "--depth_policy", "uniform")
    rows = read_csv(folder / "manifest.csv")[1 : AMOUNT + 1]
    assert [int(row["timestep"]) for row in rows] == [10, 20, 35]


def test_other_flags_into_the_same_folder_are_refused_by_name(runs, copied):
    before = snapshot(copied.parent)
    result = call(
        SEQUENCES,
        *runs.sequences,
        "--save_latents",
        "True",
        "--amount",
        2,
        "--out_dir",
        copied.parent,
    )
    assert result.code == 2 and "--amount was 3, is 2" in result.last
    assert snapshot(copied.parent) == before


def test_a_folder_of_another_command_is_refused(runs):
    before = snapshot(runs.source)
    result = call(SEQUENCES, *runs.sequences, "--out_dir", runs.source)
    assert result.code == 2 and "holds a run of 'image_train'" in result.last
    assert snapshot(runs.source) == before


def test_sequences_are_not_continued_with_other_images_or_weights(runs, tmp_path):
    mine = draw_images(tmp_path / "images", 3)
    shutil.copytree(runs.source, tmp_path / "source")
    places = ["--data_dir", mine, "--source_model", tmp_path / "source"]
    folder = make(runs, tmp_path / "run", *places)
    command = [*runs.sequences, "--save_latents", "True", *places, "--out_dir", tmp_path / "run"]

    before = snapshot(folder)
    (mine / "a_new_first_one.png").write_bytes((mine / "tile0_000.png").read_bytes())
    result = call(SEQUENCES, *command)
    assert result.code == 2 and "a_new_first_one.png; choose another folder" in result.last
    assert snapshot(folder) == before
    (mine / "a_new_first_one.png").unlink()

    # Other weights, under the same name and under a new one.
    for step in ("000008", "9"):
        for name in ("model{}.pt", "ema_0.5_{}.pt"):
            shutil.copy(
                runs.target / name.format("000008"), tmp_path / "source" / name.format(step)
            )
        result = call(SEQUENCES, *command)
        assert result.code == 2 and "run of other weights (the wei" in result.last
        assert "weights of the source model have changed since, sha256 " in result.last
        assert snapshot(folder) == before


def test_without_a_folder_each_set_of_flags_has_its_own_in_results(runs, tmp_path):
    flags = [*runs.sequences, "--num_images", 1, "--amount", 1]
    with working_directory(tmp_path):
        succeed(SEQUENCES, *flags)
        succeed(SEQUENCES, *flags, "--max_batch", 1, "--seed", 7)
        assert len(os.listdir("results")) == 1
        succeed(SEQUENCES, *flags, "--depth_policy", "uniform")
    names = sorted(path.name for path in (tmp_path / "results").iterdir())
    assert len(names) == 2 and all(name.startswith("0_to_1_") for name in names)


def test_named_domains_name_folder_columns_and_labels(runs, tmp_path):
    names = ["--source", "polyp", "--target", "cancer", "--num_images", 1]
    succeed(SEQUENCES, *runs.sequences, *names, "--out_dir", tmp_path)
    rows = read_csv(tmp_path / "translation_polyp_cancer" / "manifest.csv")
    assert [row["label_cancer"] for row in rows][::AMOUNT] == ["0.0", "1.0"]
    assert [row["label_polyp"] for row in rows][::AMOUNT] == ["1.0", "0.0"]


def test_compiled_networks_make_the_same_pictures_from_few_sizes(runs, made, tmp_path, monkeypatch):
    compile_, asked = torch.nn.Module.compile, []

    def quickly(module, **how):  # the tracing of torch.compile without its code generation
        asked.append(how["dynamic"])
        compile_(module, backend="eager", dynamic=how["dynamic"])

    monkeypatch.setattr(torch.nn.Module, "compile", quickly)
    folder = make(runs, tmp_path / "run", "--compile", "True", "--batch_size", 2)
    assert asked == [False, False]
    assert_same_pictures(folder, made)


def test_without_a_compiler_nothing_is_written(runs, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CXX", "")
    result = call(SEQUENCES, *runs.sequences, "--compile", "True", "--out_dir", tmp_path / "run")
    assert result.code == 2 and "--compile: expected a C++ compiler" in result.last
    assert not (tmp_path / "run").exists()
