"""A training from its settings: what cannot work, its run folder, its loop, its pictures."""

import json
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from support.cli import load_script, snapshot

from guided_diffusion import dist_util
from guided_diffusion.config.network_settings import ClassifierSettings, ModelSettings
from guided_diffusion.data.settings import FolderSettings
from guided_diffusion.diffusion.settings import ProcessSettings
from guided_diffusion.errors import ArgumentError, UserError
from guided_diffusion.runtime.run_folder import PER_STEP
from guided_diffusion.runtime.settings import ExecutionSettings, RunSettings
from guided_diffusion.training.settings import DenoisingSettings, GridSettings, LoopSettings
from guided_diffusion.training.training_run import (
    Training,
    refuse_labels_of_no_use,
    save_picture_if_due,
)

COMMAND = load_script("image_train").main
NETWORK = ModelSettings(
    image_size=16,
    num_channels=32,
    num_res_blocks=1,
    channel_mult="1,1",
    attention_resolutions="8",
    num_heads=2,
)
PROCESS = ProcessSettings(diffusion_steps=40)
USUAL = {
    "loop": DenoisingSettings(),
    "network": NETWORK,
    "process": PROCESS,
    "run": RunSettings(),
    "execution": ExecutionSettings(device="cpu"),
}


def training(**changes):
    return Training(**USUAL | changes)


@pytest.fixture
def two_ranks(monkeypatch):
    """Let this process take itself for the first of two."""
    monkeypatch.setattr(dist_util, "world_size", lambda: 2)
    monkeypatch.setattr(dist_util, "once", lambda work: work())


def folder_of(trained, tmp_path, **options):
    images, grid = FolderSettings(data_dir=str(tmp_path / "tiles")), GridSettings()
    return trained.folder(COMMAND, tmp_path / "default", images, grid, **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {
                "network": NETWORK.replace(use_fp16=True),
                "execution": ExecutionSettings(precision="auto"),
            },
            "precision: auto and --use_fp16 True exclude each other; choose one",
        ),
        (
            {
                "loop": LoopSettings(),
                "network": ClassifierSettings(classifier_use_fp16=True),
                "execution": ExecutionSettings(precision="bf16"),
            },
            "precision: bf16 and --classifier_use_fp16 True exclude each other; choose one",
        ),
        (
            {"loop": DenoisingSettings(init_checkpoint="a", resume_checkpoint="b")},
            "init_checkpoint: expected alone, got --resume_checkpoint too",
        ),
        ({"loop": DenoisingSettings(ema_rate="0.9,x")}, "ema_rate: "),
        ({"process": PROCESS.replace(diffusion_steps=20)}, "diffusion_steps: .* got 20"),
    ],
)
def test_settings_that_cannot_work_together_are_refused_when_they_meet(changes, message):
    with pytest.raises(ArgumentError, match=f"^{message}"):
        training(**changes)


def test_labels_go_with_a_network_that_is_told_classes():
    refuse_labels_of_no_use(FolderSettings(labels="folder"), class_cond=True)
    refuse_labels_of_no_use(FolderSettings(), class_cond=False)
    with pytest.raises(ArgumentError, match="^labels: expected together with --class_cond True"):
        refuse_labels_of_no_use(FolderSettings(labels="folder"), class_cond=False)


def test_the_run_folder_is_that_of_the_flag_else_of_the_environment_else_the_default(
    tmp_path, monkeypatch
):
    assert folder_of(training(), tmp_path).path == tmp_path / "default"
    monkeypatch.setenv("OPENAI_LOGDIR", str(tmp_path / "environment"))
    assert folder_of(training(), tmp_path).path == tmp_path / "environment"
    named = training(run=RunSettings(out_dir=str(tmp_path / "flag")))
    assert folder_of(named, tmp_path).path == tmp_path / "flag"
    assert not list(tmp_path.iterdir())


def test_a_record_has_every_setting_the_batch_of_all_ranks_and_what_auto_came_to(
    tmp_path, two_ranks
):
    loop, execution = DenoisingSettings(batch_size=3), ExecutionSettings(precision="auto")
    trained = training(loop=loop, execution=execution)
    folder = folder_of(trained, tmp_path)
    assert not folder.path.exists()
    trained.claim(folder)
    record = json.loads((folder.path / "args.json").read_text())
    assert record["script"] == "image_train"
    assert record["args"].keys() == COMMAND.defaults.keys() | {PER_STEP}
    assert record["args"]["precision"] == "auto" and record["args"][PER_STEP] == 6
    assert record["resolved"]["precision"] in ("fp32", "bf16")
    assert record["resolved"]["processes"] == 2


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ({"lr": 0.1}, {"lr": 0.2}, "--lr was 0.1, is 0.2"),
        ({"batch_size": 2}, {"batch_size": 4}, "--batch_size times the number of processes was 2"),
    ],
)
def test_a_folder_of_other_settings_is_refused_and_left_as_it_is(tmp_path, first, second, words):
    before = training(loop=DenoisingSettings(**first))
    before.claim(folder_of(before, tmp_path))
    kept = snapshot(tmp_path)
    with pytest.raises(ArgumentError, match=f"^out_dir: .*{words}.*, or another folder$"):
        folder_of(training(loop=DenoisingSettings(**second)), tmp_path)
    (tmp_path / "default" / "model000004.pt").touch()
    with pytest.raises(UserError, match=r"add --out_dir ANOTHER_FOLDER --resume_checkpoint /.*t$"):
        folder_of(training(loop=DenoisingSettings(**second)), tmp_path)
    assert snapshot(tmp_path) == kept | {"default/model000004.pt": b""}


def test_free_settings_and_the_share_of_a_rank_may_change(tmp_path, request):
    before = training(loop=DenoisingSettings(batch_size=4, max_steps=5, save_interval=2))
    before.claim(folder_of(before, tmp_path))
    request.getfixturevalue("two_ranks")  # each takes half of the batch
    after = training(loop=DenoisingSettings(batch_size=2, max_steps=9, save_interval=3))
    after.claim(folder_of(after, tmp_path))
    longer = training(loop=DenoisingSettings(batch_size=2, lr=0.5))
    with pytest.raises(UserError, match="--lr was"):
        folder_of(longer, tmp_path)
    assert folder_of(longer, tmp_path, free=("lr",))


def test_an_older_record_is_read_as_its_command_meant_it_then(tmp_path):
    folder = tmp_path / "default"
    folder.mkdir()
    own = NETWORK.values() | PROCESS.values() | {"data_dir": str(tmp_path / "tiles")}
    record = {"script": "image_train", "args": own}  # before most of the settings, and versions
    (folder / "args.json").write_text(json.dumps(record))
    trained = training()
    trained.claim(folder_of(trained, tmp_path))
    with pytest.raises(UserError, match=r"\(--seed was 0, is 1\)"):
        folder_of(training(run=RunSettings(seed=1)), tmp_path)


def test_a_loop_has_the_settings_and_weights_that_follow_from_the_seed(tmp_path, recorder):
    loop = DenoisingSettings(batch_size=2, lr=0.25, ema_rate="0.5", max_steps=3)
    runs = [RunSettings(seed=seed) for seed in (0, 0, 1)]
    loops = [training(loop=loop, run=run).create_loop(tmp_path / "run") for run in runs]
    assert (loops[0].lr, loops[0].batch_size, loops[0].max_steps) == (0.25, 2, 3)
    assert (loops[2].seed, loops[0].precision, loops[0].use_fp16) == (1, "fp32", False)
    assert loops[0].diffusion.num_timesteps == 40
    weights = [made.model.input_blocks[0][0].weight for made in loops]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert not (tmp_path / "run").exists()


def test_samples_depend_on_the_seed_and_leave_the_training_alone(tmp_path, recorder):
    trained = training()
    loop = trained.create_loop(tmp_path / "run")
    torch.nn.init.normal_(loop.model.out[2].weight)
    before = {key: value.clone() for key, value in loop.model.state_dict().items()}
    drawn = [trained.draw_samples(loop, (2, 3, 16, 16), {}, steps) for steps in (4, 4, 99)]
    assert drawn[0].shape == (2, 3, 16, 16) and drawn[0].abs().max() <= 1
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert all(torch.equal(before[k], v) for k, v in loop.model.state_dict().items())


@pytest.mark.parametrize(
    ("interval", "saved"), [(-1, [2, 4, 5]), (0, []), (1, [1, 2, 3, 4, 5]), (3, [3, 5])]
)
def test_pictures_come_every_so_often_and_at_the_end(tmp_path, interval, saved):
    def draw():
        return Image.new("RGB", (2, 2))

    for done in range(1, 6):
        loop = SimpleNamespace(done=done, max_steps=5, save_interval=2, out_dir=tmp_path)
        save_picture_if_due(loop, draw, interval)
    assert [*snapshot(tmp_path)] == [f"samples/{step:06d}.png" for step in saved]


def test_a_picture_that_is_missing_is_drawn_and_one_that_is_there_stays(tmp_path):
    drawn = []

    def draw():
        drawn.append(1)
        return Image.new("RGB", (2, 2))

    loop = SimpleNamespace(done=4, max_steps=0, out_dir=tmp_path)
    for _ in range(2):
        save_picture_if_due(loop, draw, 4, missing=True)
    assert len(drawn) == 1
    save_picture_if_due(loop, draw, 4)
    assert len(drawn) == 2
