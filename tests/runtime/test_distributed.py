"""Two ranks do what one process does, under either launcher; one process needs neither."""

import ast
import json
import os
import sys

import numpy as np
import pytest
import torch
from support.cli import (
    ROOT,
    SEQUENCES,
    TINY_CLASSIFIER,
    command,
    draw_images,
    grey_levels_apart,
    launch,
    launch_together,
    picture,
    read_csv,
    snapshot,
    succeed,
)

from guided_diffusion import dist_util
from guided_diffusion.runtime import run_lock, work_sharing

LAUNCHERS = ("mpiexec", "torchrun")
ONE_RANK_ONLY = {"images_per_second", "minutes_left"}  # of the log: how fast, not what


@pytest.fixture(scope="module")
def training(runs):
    """Flags of a run whose steps do not depend on which rank does them."""
    return [*runs.training, "--lr", 3e-4, "--dropout", 0, "--max_steps", 3]


@pytest.fixture(scope="module")
def trained_alone(training, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    succeed("image_train", *training, "--batch_size", 4, "--out_dir", folder)
    return folder


@pytest.fixture(scope="module")
def generated_alone(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("generated") / "run"
    succeed(SEQUENCES, *runs.sequences, "--out_dir", folder)
    return folder


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_ranks_train_as_one_process_with_twice_the_batch(
    launcher, training, trained_alone, tmp_path
):
    flags = [*training, "--batch_size", 2, "--out_dir", tmp_path]
    result = launch(command(launcher, "image_train", *flags))
    assert result.code == 0, result.err
    assert snapshot(tmp_path).keys() == snapshot(trained_alone).keys()
    for name in ("model000003.pt", "ema_0.5_000003.pt"):
        states = [torch.load(place / name) for place in (tmp_path, trained_alone)]
        torch.testing.assert_close(*states, rtol=1e-4, atol=1e-5)
    rows = [read_csv(place / "progress.csv") for place in (tmp_path, trained_alone)]
    assert [row["step"] for row in rows[1]] == ["1", "2", "3"]
    for ours, theirs in zip(*rows, strict=True):
        assert ours.keys() == theirs.keys() >= {"loss", "mse", "grad_norm", "samples"}
        for key in theirs.keys() - ONE_RANK_ONLY:
            assert (ours[key] == "") == (theirs[key] == "")
            assert float(ours[key] or 0) == pytest.approx(float(theirs[key] or 0), rel=1e-4), key


def test_two_tasks_of_a_slurm_step_train_as_one_process_without_mpi(
    training, trained_alone, tmp_path
):
    broken = tmp_path / "packages" / "mpi4py"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise RuntimeError('cannot load MPI library')\n")
    step = {
        "SLURM_JOB_ID": os.getpid(),
        "SLURM_STEP_ID": 0,
        "SLURM_NTASKS": 2,
        "SLURM_STEP_NODELIST": "thishost",
        "PYTHONPATH": f"{broken.parent}:{ROOT}",
    }
    tasks = [step | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank} for rank in range(2)]
    flags = [*training, "--batch_size", 2, "--out_dir", tmp_path / "run"]
    for result in launch_together(command("python", "image_train", *flags), tasks):
        assert result.code == 0, result.err
    name = "model000003.pt"
    states = [torch.load(place / name) for place in (tmp_path / "run", trained_alone)]
    torch.testing.assert_close(*states, rtol=1e-4, atol=1e-5)


def test_two_ranks_train_a_classifier_as_one_process_with_twice_the_batch(
    two_ranks, runs, tmp_path
):
    folders = ["--data_dir", runs.images, "--val_data_dir", runs.images]
    flags = [*TINY_CLASSIFIER, *folders, "--iterations", 2, "--log_interval", 1]
    line = [*flags, "--batch_size", 2, "--out_dir", tmp_path / "two"]
    result = two_ranks.run("mpiexec", "classifier_train", *line)
    assert result.code == 0, result.err
    succeed("classifier_train", *flags, "--batch_size", 4, "--out_dir", tmp_path / "one")
    states = [torch.load(tmp_path / place / "model000002.pt") for place in ("two", "one")]
    # Adam makes whole steps of gradients that are rounding alone: a few weights may differ by one.
    for key, weight in states[0].items():
        assert (weight - states[1][key]).abs().mean() < 1e-5, key
    rows = [read_csv(tmp_path / place / "progress.csv") for place in ("two", "one")]
    for ours, theirs in zip(*rows, strict=True):
        for key in ("train_loss", "train_acc@1", "val_loss", "val_acc@1", "grad_norm"):
            assert (ours[key] == "") == (theirs[key] == "")
            assert float(ours[key] or 0) == pytest.approx(float(theirs[key] or 0), rel=1e-4), key


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_ranks_generate_what_one_process_does(launcher, runs, generated_alone, tmp_path):
    result = launch(command(launcher, SEQUENCES, *runs.sequences, "--out_dir", tmp_path))
    assert result.code == 0, result.err
    ours, theirs = tmp_path / "translation_0_1", generated_alone / "translation_0_1"
    assert snapshot(ours).keys() == snapshot(theirs).keys()
    assert read_csv(ours / "manifest.csv") == read_csv(theirs / "manifest.csv")
    pictures = sorted(theirs.glob("images/*/*.png"))
    assert len(pictures) == 12
    for path in pictures:
        other = picture(ours / path.relative_to(theirs))
        assert grey_levels_apart(picture(path), other) <= 1
    assert grey_levels_apart(np.load(ours / "target.npy"), np.load(theirs / "target.npy")) <= 1
    logs = ["progress.jsonl", "progress-rank001.jsonl"]
    rows = [json.loads(line) for log in logs for line in (tmp_path / log).read_text().splitlines()]
    assert sorted(row["sequence"] for row in rows) == [0, 1, 2]


def generate_slowly_on_rank_1(*flags):
    """Generate sequences; rank 1 makes none of its batches before rank 0 has done the rest."""
    take = work_sharing.SharedBatches.__iter__

    def slowly(self):
        for batch in take(self):
            if dist_util.rank() == 1:
                dist_util._store.wait(["rank 0 has done the rest"])
            yield batch
        dist_util._store.set("rank 0 has done the rest", "")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work_sharing.SharedBatches, "__iter__", slowly)
        succeed(SEQUENCES, *flags)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_rank_does_what_a_slower_one_does_not_come_to(two_ranks, launcher, runs, tmp_path):
    flags = [*runs.sequences, "--num_images", 5, "--amount", 1, "--out_dir", tmp_path / "run"]
    two_ranks.each(launcher, generate_slowly_on_rank_1, *flags)
    rows = read_csv(tmp_path / "run" / "translation_0_1" / "manifest.csv")
    assert [row["sequence"] for row in rows[::2]] == [f"{i:05d}" for i in range(5)]
    made = (tmp_path / "run" / "progress.jsonl").read_text().splitlines()
    assert len(made) >= 4  # equal shares are three and two


def test_two_ranks_draw_the_images_of_one_process(two_ranks, runs, tmp_path):
    drawing = "--num_samples 5 --batch_size 2 --use_ddim True --timestep_respacing 8 --device cpu"
    flags = ["--model_path", runs.source, *drawing.split(), "--out_dir"]
    result = two_ranks.run("mpiexec", "image_sample", *flags, tmp_path / "two")
    assert result.code == 0, result.err
    succeed("image_sample", *flags, tmp_path / "one")
    files = [tmp_path / name / "samples_5x16x16x3.npz" for name in ("one", "two")]
    drawn = [np.load(file)["arr_0"] for file in files]
    assert grey_levels_apart(*drawn) <= 1


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_mistake_that_only_rank_0_meets_ends_every_rank(launcher, runs, tmp_path):
    folder = tmp_path / "translation_0_1"
    folder.mkdir()
    (folder / "manifest.csv").write_text("file_name,label\na,b\n")
    result = launch(command(launcher, SEQUENCES, *runs.sequences, "--out_dir", tmp_path))
    assert result.code == (2 if launcher == "mpiexec" else 1)
    assert "manifest.csv: expected the columns file_name,sequence," in result.err
    assert "UserError" not in result.err and "RuntimeError" not in result.err
    assert (folder / "manifest.csv").read_text() == "file_name,label\na,b\n"


def test_a_broken_image_that_only_rank_1_opens_ends_every_rank(runs, tmp_path):
    second = sorted(draw_images(tmp_path / "images", 3).iterdir())[1]
    second.write_text("no picture")
    flags = [*runs.sequences, "--data_dir", second.parent, "--out_dir", tmp_path / "run"]
    result = launch(command("mpiexec", SEQUENCES, *flags))
    assert result.code == 2 and not (tmp_path / "run").exists()
    assert f"error: {second}: expected a readable image" in result.err
    assert "Traceback" not in result.err


def test_a_wrong_flag_ends_every_rank_with_code_2(runs, tmp_path):
    flags = [*runs.training, "--ema_rate", "x", "--out_dir", tmp_path / "run"]
    result = launch(command("mpiexec", "image_train", *flags))
    assert result.code == 2 and not (tmp_path / "run").exists()
    assert result.err.count("ema_rate: expected decays in [0, 1), got 'x'") >= 1
    assert "Traceback" not in result.err


def test_one_process_runs_where_mpi_cannot_be_loaded_and_does_not_try(runs, tmp_path):
    broken = tmp_path / "packages" / "mpi4py"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise RuntimeError('cannot load MPI library')\n")
    script = ROOT / "scripts" / f"{SEQUENCES}.py"
    watch = (
        "import os, runpy, sys; before = dict(os.environ); sys.argv = sys.argv[1:];"
        "runpy.run_path(sys.argv[0], run_name='__main__');"
        "changed = {k for k in os.environ if os.environ[k] != before.get(k)};"
        "print('mpi4py' in sys.modules, 'torch' in sys.modules, sorted(changed))"
    )
    line = [sys.executable, "-c", watch, script, *runs.sequences, "--out_dir", tmp_path / "run"]
    result = launch([str(word) for word in line], PYTHONPATH=tmp_path / "packages")
    assert result.code == 0, result.err
    in_sys_modules, torch_is, changed = result.out.strip().splitlines()[-1].split(" ", 2)
    assert (in_sys_modules, torch_is) == ("False", "True")
    assert "CUDA_VISIBLE_DEVICES" not in changed


def written_names(tree: ast.AST) -> set[str]:
    """Text keys that some mapping is given, or loses, anywhere in a module."""
    found: set[ast.AST | None] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
            found.add(node.slice)
        elif isinstance(node, ast.Dict):
            found |= set(node.keys)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in ("setdefault", "putenv", "unsetenv", "pop", "setenv"):
                found |= set(node.args[:1])
            found |= {ast.Constant(word.arg) for word in node.keywords}
    return {node.value for node in found if isinstance(node, ast.Constant)}


def test_no_code_writes_cuda_visible_devices():
    files = [*(ROOT / "guided_diffusion").rglob("*.py"), *(ROOT / "scripts").glob("*.py")]
    assert len(files) > 25
    for path in files:
        names = written_names(ast.parse(path.read_text(encoding="utf-8")))
        assert "CUDA_VISIBLE_DEVICES" not in names, path
        assert path.parts[-2:] != ("runtime", "launchers.py") or "MASTER_PORT" in names


@pytest.mark.parametrize(
    "code",
    [
        "os.environ['X'] = '1'",
        "os.environ.setdefault('X', '1')",
        "os.environ.update(X='1')",
        "os.environ |= {'X': '1'}",
        "del os.environ['X']",
        "os.putenv('X', '1')",
    ],
)
def test_the_reader_of_written_names_sees_a_write(code):
    assert written_names(ast.parse(code)) == {"X"}
    assert written_names(ast.parse("print(os.environ['X'], os.environ.get('X'))")) == set()


def test_two_ranks_hold_one_folder_together_and_are_refused_together(two_ranks, runs, tmp_path):
    flags = [*runs.training, "--batch_size", 1, "--max_steps", 1, "--out_dir", tmp_path]
    with run_lock.scope():
        run_lock.hold(tmp_path, "image_train")
        refused = two_ranks.run("mpiexec", "image_train", *flags)
    assert refused.code == 2 and "model000001.pt" not in snapshot(tmp_path)
    assert refused.err.count(f"process {os.getpid()}, since ") == 2
    done = two_ranks.run("mpiexec", "image_train", *flags)
    assert done.code == 0, done.err
    assert "model000001.pt" in snapshot(tmp_path) and run_lock.NAME not in snapshot(tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_files_do_not_depend_on_threads_batch_and_ranks(tmp_path, precision):
    few = ["--preset", "draft", "--num_images", 3, "--amount", 3, "--precision", precision]
    runs = {
        "one": (command("python", SEQUENCES, *few, "--batch_size", 1), 1),
        "more": (command("python", SEQUENCES, *few, "--batch_size", 3, "--max_batch", 7), 2),
        "ranks": (command("mpiexec", SEQUENCES, *few, "--batch_size", 2), 1),
    }
    found = {}
    for name, (line, threads) in runs.items():
        result = launch([*line, "--out_dir", str(tmp_path / name)], OMP_NUM_THREADS=threads)
        assert result.code == 0, result.err
        folder = tmp_path / name / "translation_gland_carcinoma"
        found[name] = [np.load(folder / f"{array}.npy") for array in ("target", "diffway")]
    for pictures, depths in found.values():
        assert np.array_equal(depths, found["one"][1])
        assert grey_levels_apart(pictures, found["one"][0]) <= (precision == "fp32")
