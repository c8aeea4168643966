"""Mistakes of a user: code 2, one line that names what is wrong, nothing written, nothing lost."""

import shutil

import pytest
import torch
from support.cli import SEQUENCES, TINY_CLASSIFIER, call, draw_images, load_script, snapshot

TRAIN, SAMPLE, CLASSIFY = "image_train", "image_sample", "classifier_train"
WHOLE = "expected a whole number of at least {}, got '{}'"
DISTINCT = "checkpoint and flags describe different networks; first at "

# Flags that mean the same to every command: (flags, what the last line says).
SHARED = [
    ("--no_such_flag 3", "unrecognized arguments: --no_such_flag 3"),
    ("--batch_size 0", "--batch_size: " + WHOLE.format(1, 0)),
    ("--batch_size -2", "--batch_size: " + WHOLE.format(1, -2)),
    ("--batch_size 1.5", "--batch_size: " + WHOLE.format(1, 1.5)),
    ("--batch_size", "--batch_size: expected one argument"),
    ("--seed -1", "--seed: " + WHOLE.format(0, -1)),
    ("--precision fp64", "--precision: invalid choice: 'fp64' (choose from"),
    ("--device cuda", "--device: expected a usable device, got 'cuda', but torch finds no GPU"),
    ("--device cuda:7", "--device: expected a usable device, got 'cuda:7'"),
    ("--device nonsense", "--device: expected cpu, cuda, cuda:N or mps, got 'nonsense'"),
    ("--device meta", "--device: expected cpu, cuda, cuda:N or mps, got 'meta'"),
    ("--class_cond perhaps", "--class_cond: expected a boolean such as True or False, got 'perh"),
    ("--noise_schedule quadratic", "--noise_schedule: invalid choice: 'quadratic'"),
    ("--image_size 0", "--image_size: " + WHOLE.format(1, 0)),
    ("--image_size 17", "--image_size: 2 levels need a multiple of 2, got 17"),
    ("--num_channels 33", "--num_channels: expected a multiple of 32, got 33"),
    ("--num_res_blocks -1", "--num_res_blocks: " + WHOLE.format(0, -1)),
    ("--num_heads 0", "--num_heads: " + WHOLE.format(1, 0)),
    ("--num_heads 3", "--num_heads: expected a divisor of the block's 64 channels, got 3"),
    ("--num_head_channels 0", "--num_head_channels: expected a whole number of at least 1 or -1"),
    ("--num_head_channels 48", "--num_head_channels: expected -1 or a divisor of"),
    ("--num_heads_upsample 0", "--num_heads_upsample: expected a whole number of at least 1 or"),
    ("--dropout 1.5", "--dropout: expected a number from 0 to 1, got '1.5'"),
    ("--channel_mult 1,x", "--channel_mult: expected numbers with commas between, got '1,x'"),
    ("--channel_mult 0,1", "--channel_mult: expected multiples of 32 channels at every level"),
    ("--attention_resolutions x", "--attention_resolutions: expected numbers with commas"),
    ("--attention_resolutions 0", "--attention_resolutions: expected sides above 0, got '0'"),
    ("--in_channels 5", "--in_channels: invalid choice: 5 (choose from 1, 2, 3, 4)"),
    ("--diffusion_steps 0", "--diffusion_steps: " + WHOLE.format(1, 0)),
    ("--diffusion_steps 20", "--diffusion_steps: expected at least 21 for the linear schedule"),
    ("--timestep_respacing abc", "--timestep_respacing: expected 'ddimN' or numbers of steps"),
    ("--timestep_respacing 41", "--timestep_respacing: expected 0 to 40 steps"),
    ("--timestep_respacing ddim39", "--timestep_respacing: expected ddimN with N timesteps of 40"),
    ("--out_dir {file}", "--out_dir: expected a folder to write to, got {file} (File exists)"),
    ("--out_dir {file}/below", "--out_dir: expected a folder to write to, got {file}/below (Not a"),
    ("--out_dir /proc/no/such", "--out_dir: expected a folder to write to, got /proc/no/such (No"),
    ("--out_dir /proc/self", "--out_dir: expected a folder to write to, got /proc/self (No such"),
    ("--out_dir {claimed}", "args.json: expected JSON with an 'args' object, got JSONDecodeError"),
]
DATA = [
    ("--data_dir {place}/missing", "--data_dir: expected a folder of images, got '{place}/missing"),
    ("--data_dir {file}", "--data_dir: expected a folder of images, got '{file}'"),
    ("--data_dir {empty}", "--data_dir: no image in {empty} or below it (looked for .jpg"),
    (
        "--data_dir {text}",
        "{text}/tile1_zz.png: expected a readable image, got none, or a damaged one",
    ),
    ("--data_dir {cut}", "{cut}/tile1_zz.png: expected a readable image, got "),
]
TRAINING = [
    ("--lr abc", "--lr: expected a number of at least 0, got 'abc'"),
    ("--lr -0.1", "--lr: expected a number of at least 0, got '-0.1'"),
    ("--lr nan", "--lr: expected a number of at least 0, got 'nan'"),
    ("--lr inf", "--lr: expected a number of at least 0, got 'inf'"),
    ("--weight_decay -1", "--weight_decay: expected a number of at least 0, got '-1'"),
    ("--microbatch 0", "--microbatch: expected a whole number of at least 1 or -1, got '0'"),
    ("--ema_rate nonsense", "--ema_rate: expected decays in [0, 1), got 'nonsense'"),
    ("--ema_rate 0.9,1", "--ema_rate: expected decays in [0, 1), got '0.9,1'"),
    ("--ema_rate 0.9,", "--ema_rate: expected decays in [0, 1), got '0.9,'"),
    ("--max_steps -1", "--max_steps: " + WHOLE.format(0, -1)),
    ("--lr_anneal_steps -1", "--lr_anneal_steps: " + WHOLE.format(0, -1)),
    ("--log_interval 0", "--log_interval: " + WHOLE.format(1, 0)),
    ("--save_interval 0", "--save_interval: " + WHOLE.format(1, 0)),
    ("--sample_steps 0", "--sample_steps: " + WHOLE.format(1, 0)),
    ("--sample_interval -2", "--sample_interval: " + WHOLE.format(-1, -2)),
    ("--schedule_sampler best", "--schedule_sampler: invalid choice: 'best' (choose from 'uniform"),
    ("--labels folder", "--labels: expected together with --class_cond True, got it alone"),
    ("--labels folder --class_cond True", "--labels: folder: expected every image in a folder of"),
    ("--labels name", "--labels: invalid choice: 'name' (choose from 'prefix', 'folder')"),
    ("--augment mirror", "--augment: invalid choice: 'mirror' (choose from 'none', 'flip'"),
    ("--use_fp16 True --precision bf16", "--precision: bf16 and --use_fp16 True exclude each"),
    ("--use_fp16 True --precision auto", "--precision: auto and --use_fp16 True exclude each"),
    ("--data_dir=", "--data_dir: expected a folder of images, got ''"),
    ("--resume_checkpoint {place}/missing.pt", "{place}/missing.pt: no such checkpoint"),
    ("--resume_checkpoint {half}", "{half}: expected a whole checkpoint, got a file that cannot"),
    ("--resume_checkpoint {whole} --num_channels 64", "{whole}: " + DISTINCT),
    ("--resume_checkpoint {whole} --learn_sigma True", "(check --learn_sigma)"),
    ("--defaults theirs", "--defaults: invalid choice: 'theirs' (choose from 'guided', 'improved"),
    ("--defaults add --precision bf16", "--precision: bf16 and --use_fp16 True exclude each"),
]
SAMPLING = [
    ("--model_path=", "--model_path: expected a checkpoint or a training run folder, got none"),
    ("--model_path {place}/no", "{place}/no: expected a checkpoint or a training run folder, fo"),
    ("--model_path {empty}", "{empty}: expected a training run with modelNNNNNN.pt or ema_*.pt"),
    ("--model_path {half}", "{half}: expected a whole checkpoint, got a file that cannot be read"),
    ("--model_path {nothing}", "{nothing}: expected a whole checkpoint, got an empty file"),
    ("--model_path {text}/tile1_zz.png", "{text}/tile1_zz.png: expected a "),
    ("--num_samples 0", "--num_samples: " + WHOLE.format(1, 0)),
    ("--use_ddim 2", "--use_ddim: expected a boolean such as True or False, got '2'"),
    (
        "--num_channels 64",
        DISTINCT + "'time_embed.0.weight': the flags ask for (256, 64), the "
        "file holds (128, 32) (check --num_channels)",
    ),
    ("--class_cond True", "the file holds absent (check --class_cond)"),
    ("--image_size 32", "trained with --image_size 16, used with 32: " + DISTINCT),
    ("--image_size 32", "(check --image_size)"),
    ("--image_size 32 --learn_sigma True", "(check --image_size, --learn_sigma)"),
]
TRANSLATING = [
    ("--amount 0", "--amount: " + WHOLE.format(1, 0)),
    (
        "--amount 9",
        "--amount: expected 1 to 8 (the steps of the process, as --timestep_respacing leaves "
        "them), got 9",
    ),
    ("--amount ten", "--amount: " + WHOLE.format(1, "ten")),
    ("--max_batch 0", "--max_batch: " + WHOLE.format(1, 0)),
    ("--solver_order 3", "--solver_order: goes with --solver dpmpp"),
    ("--preset aligned --encode_prediction noise", "--encode_prediction: goes with --solver dpmpp"),
    ("--grid logsnr", "--grid: every level is visited; add --encode_steps or --decode_steps"),
    ("--num_images -1", "--num_images: " + WHOLE.format(0, -1)),
    ("--trajectory_memory -1", "--trajectory_memory: expected a number of at least 0, got '-1'"),
    ("--depth_policy best", "--depth_policy: invalid choice: 'best' (choose from 'add', 'even'"),
    ("--level_convention x", "--level_convention: invalid choice: 'x' (choose from 'reference'"),
    ("--save_npy 2", "--save_npy: expected a boolean such as True or False, got '2'"),
    ("--source 1", "--target: expected a name that differs from --source, got '1'"),
    ("--source a/b", "--source: expected a name of letters, digits, _, . or -, got 'a/b'"),
    ("--target ..", "--target: expected a name of letters, digits, _, . or -, got '..'"),
    ("--target=", "--target: expected a name of letters, digits, _, . or -, got ''"),
    ("--source_model=", "--source_model: expected together with --data_dir, got none; give all"),
    ("--source_model= --target_model=", "--source_model: expected together with --data_dir"),
    ("--data_dir=", "--data_dir: expected together with --source_model, got none; give all of"),
    ("--data_dir= --source_model=", "--data_dir: expected together with --target_model"),
    ("--data_dir= --target_model=", "--data_dir: expected together with --source_model"),
    ("--source_model {half}", "{half}: expected a whole checkpoint, got a file that cannot be"),
    ("--target_model {place}/no", "{place}/no: expected a checkpoint or a training run folder"),
    ("--target_model {small}", "--image_size: source and target need the same; "),
    ("--target_model {conditional}", ": expected a model without classes; imagenet_trans"),
    ("--num_channels 64", "(check --num_channels)"),
]
CLASSIFYING = [
    ("--num_classes 1", "--num_classes: " + WHOLE.format(2, 1)),
    (
        "--data_dir {one}",
        "--data_dir: expected 2 to 3 classes (--num_classes), found 1: 0 tile0 (file",
    ),
    (
        "--val_data_dir {one}",
        "--val_data_dir: expected images of all classes 0 tile0, 1 tile1, found tile0",
    ),
    ("--val_data_dir {place}/no", "--val_data_dir: expected a folder of images, got '{place}/no'"),
    ("--iterations 0", "--iterations: " + WHOLE.format(1, 0)),
    ("--eval_interval 0", "--eval_interval: " + WHOLE.format(1, 0)),
    ("--classifier_width 33", "--classifier_width: expected a multiple of 32, got 33"),
    ("--classifier_pool best", "--classifier_pool: invalid choice: 'best' (choose from"),
    ("--classifier_use_fp16 True --precision bf16", "--precision: bf16 and --classifier_use_fp16"),
    ("--resume_checkpoint {whole}", "{whole}: " + DISTINCT),
    ("--out_dir {claimed}", "args.json: expected JSON with an 'args' object, got JSONDecodeError"),
]
CASES = [
    *(
        (script, *case)
        for script in (TRAIN, SAMPLE, SEQUENCES)
        for case in SHARED
        if script != SAMPLE or "{claimed}" not in case[0]
    ),
    *((script, *case) for script in (TRAIN, CLASSIFY, SEQUENCES) for case in DATA),
    *((CLASSIFY, *case) for case in CLASSIFYING),
    *((TRAIN, *case) for case in TRAINING),
    *((SAMPLE, *case) for case in SAMPLING),
    *((SEQUENCES, *case) for case in TRANSLATING),
]


@pytest.fixture(scope="module")
def scripts():
    return {name: load_script(name) for name in (TRAIN, SAMPLE, CLASSIFY, SEQUENCES)}


@pytest.fixture(scope="module")
def places(runs, tmp_path_factory):
    """Every broken thing that a flag can point at, by name."""
    place = tmp_path_factory.mktemp("places")
    whole = runs.source / "model000008.pt"
    (place / "half.pt").write_bytes(whole.read_bytes()[:5000])
    (place / "nothing.pt").touch()
    (place / "file").write_text("kept")
    (place / "empty").mkdir()
    (draw_images(place / "text", 2) / "tile1_zz.png").write_text("no picture")
    cut = draw_images(place / "cut", 2)
    (cut / "tile1_zz.png").write_bytes((cut / "tile0_000.png").read_bytes()[:200])
    draw_images(place / "one", 1)
    (place / "claimed").mkdir()
    (place / "claimed" / "args.json").write_text("{")
    for name, flags in (("small", "--image_size 8"), ("conditional", "--class_cond True")):
        out = ["--out_dir", place / name, "--max_steps", 1, "--sample_interval", 0]
        assert call(TRAIN, *runs.training, *flags.split(), *out).code == 0
    return {
        "place": place,
        "whole": whole,
        "half": place / "half.pt",
        "nothing": place / "nothing.pt",
        **{n: place / n for n in "file empty text cut one claimed small conditional".split()},
    }


@pytest.fixture
def good(runs):
    """Flags of each command that are right."""
    small = ["--num_samples", 1, "--timestep_respacing", 8, "--device", "cpu"]
    return {
        TRAIN: [*runs.training, "--max_steps", 1],
        SAMPLE: ["--model_path", runs.source, *small],
        # Random crops are cut from files that are opened when they are needed.
        CLASSIFY: [
            *TINY_CLASSIFIER,
            "--data_dir",
            runs.images,
            "--num_classes",
            3,
            "--random_crop",
            "False",
        ],
        SEQUENCES: runs.sequences,
    }


@pytest.mark.parametrize(("script", "flags", "message"), CASES)
def test_a_mistake_ends_with_code_2_and_one_telling_line_and_writes_nothing(
    scripts, places, good, tmp_path, monkeypatch, script, flags, message
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    out_dir = tmp_path / "out"
    before = snapshot(places["place"])
    words = [word.format(**places) for word in flags.split()]
    result = call(scripts[script], *good[script], "--out_dir", out_dir, *words)
    assert result.code == 2, result.out
    assert message.format(**places) in result.last
    assert "error: " in result.last and "Traceback" not in result.err
    assert len(result.err.strip().splitlines()) <= 2  # the usage line of argparse may stand above
    assert not out_dir.exists() and snapshot(places["place"]) == before


@pytest.mark.parametrize(
    ("script", "flags"),
    [
        (TRAIN, "--ema_rate x"),
        (TRAIN, "--data_dir {text}"),
        (TRAIN, "--resume_checkpoint {half}"),
        (SAMPLE, "--model_path {half}"),
        (SEQUENCES, "--amount 9"),
        (SEQUENCES, "--data_dir {cut}"),
    ],
)
def test_after_a_mistake_a_folder_with_files_of_the_user_is_as_it_was(
    scripts, places, good, tmp_path, script, flags
):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "model000003.pt").write_bytes(b"broken")
    words = [word.format(**places) for word in flags.split()]
    result = call(scripts[script], *good[script], "--out_dir", tmp_path, *words)
    assert result.code == 2
    assert snapshot(tmp_path) == {"notes.txt": b"mine", "model000003.pt": b"broken"}


def test_after_a_mistake_the_right_command_runs_in_the_same_folder(scripts, good, tmp_path):
    late = {TRAIN: "--ema_rate x", SAMPLE: "--timestep_respacing 41", SEQUENCES: "--amount 9"}
    for script, mistake in late.items():
        flags = [*good[script], "--out_dir", tmp_path / script]
        assert call(scripts[script], *flags, *mistake.split()).code == 2
        result = call(scripts[script], *flags)
        assert result.code == 0, result.err


def test_a_manifest_or_array_that_is_not_ours_is_refused_and_kept(scripts, good, tmp_path):
    flags = [*good[SEQUENCES], "--out_dir", tmp_path]
    assert call(scripts[SEQUENCES], *flags).code == 0
    folder = tmp_path / "translation_0_1"
    whole = (folder / "target.npy").read_bytes()
    for name, content, message in (
        ("target.npy", b"no array", "target.npy: expected an array"),
        ("manifest.csv", b"file_name,label\na,b\n", "manifest.csv: expected the columns file_name"),
    ):
        (folder / name).write_bytes(content)
        result = call(scripts[SEQUENCES], *flags)
        assert result.code == 2 and message in result.last
        assert (folder / name).read_bytes() == content
        (folder / "target.npy").write_bytes(whole)


@pytest.mark.parametrize("script", [TRAIN, SAMPLE, SEQUENCES])
def test_help_is_printed_and_says_what_the_command_is_for(scripts, script):
    result = call(scripts[script], "--help")
    assert result.code == 0 and result.err == ""
    assert " ".join(scripts[script].__doc__.split())[:60] in " ".join(result.out.split())
    assert "--out_dir" in result.out


def test_a_run_whose_record_is_broken_is_no_model(scripts, runs, good, tmp_path):
    shutil.copytree(runs.source, tmp_path / "run")
    (tmp_path / "run" / "args.json").write_text("[]")
    broken = ["--model_path", tmp_path / "run", "--out_dir", tmp_path / "out"]
    result = call(scripts[SAMPLE], *good[SAMPLE], *broken)
    assert result.code == 2
    assert "args.json: expected JSON with an 'args' object" in result.last
    assert not (tmp_path / "out").exists()
