"""Run the commands of the four upstreams' readmes, scaled down, one after the other.

    python tests/support/readme_commands.py FOLDER

FOLDER holds `images`, named by class. Each command is written as in its readme, sizes and
iterations apart; upstream's scripts log to OPENAI_LOGDIR, and so to folders below FOLDER. The
commands run in one process (or one group of ranks), which saves starting it for each.
"""

import os
import sys

from cli import load_script  # a script finds what lies beside it

from guided_diffusion import dist_util

END = "--lr_anneal_steps 2 --save_interval 2 --log_interval 1"  # readmes train for days
IMPROVED_MODEL = "--image_size 16 --num_channels 32 --num_res_blocks 1 --learn_sigma True"
IMPROVED_DIFFUSION = "--diffusion_steps 24 --noise_schedule cosine"
IMPROVED_TRAIN = f"--lr 1e-4 --batch_size 2 {END} --sample_interval 0"
GUIDED_MODEL = (
    "--attention_resolutions 8 --class_cond True --diffusion_steps 24 --dropout 0.1 --image_size "
    "16 --learn_sigma True --noise_schedule cosine --num_channels 32 --num_head_channels 32 "
    "--num_res_blocks 1 --resblock_updown True --use_new_attention_order True --use_fp16 True "
    "--use_scale_shift_norm True"
)
GUIDED_UPSAMPLER = (
    "--attention_resolutions 8 --class_cond True --diffusion_steps 24 --large_size 16 --small_size "
    "8 --learn_sigma True --noise_schedule cosine --num_channels 32 --num_heads 2 "
    "--num_res_blocks 1 --resblock_updown True --use_scale_shift_norm True"
)
CLASSIFIER = (
    "--image_size 16 --classifier_attention_resolutions 8 --classifier_depth 1 --classifier_width "
    "32 --classifier_pool attention --classifier_resblock_updown True "
    "--classifier_use_scale_shift_norm True"
)
CLASSIFIER_TRAIN = (
    "--iterations 2 --anneal_lr True --batch_size 2 --lr 3e-4 --save_interval 2 --weight_decay 0.05"
)
SAMPLE = "--batch_size 2 --num_samples 3 --timestep_respacing 4"
DDIB = "--num_res_blocks 1 --diffusion_steps 24 --batch_size 20"
POINTS = "--num_samples 50 --model_path models/synthetic"

# (folder of the log, script, flags), in the order in which one needs the other.
COMMANDS = [
    # improved-diffusion
    (
        "improved",
        "image_train",
        f"--data_dir images {IMPROVED_MODEL} {IMPROVED_DIFFUSION} "
        f"{IMPROVED_TRAIN} --use_kl True --schedule_sampler loss-second-moment",
    ),
    (
        "improved_samples",
        "image_sample",
        "--model_path improved/ema_0.9999_000002.pt "
        f"{IMPROVED_MODEL} {IMPROVED_DIFFUSION} --batch_size 2 --num_samples 3 "
        "--timestep_respacing ddim4 --use_ddim True",
    ),
    (
        "improved_nll",
        "image_nll",
        "--model_path improved/model000002.pt --data_dir images "
        f"--num_samples 3 {IMPROVED_MODEL} {IMPROVED_DIFFUSION} --timestep_respacing 4",
    ),
    # guided-diffusion
    ("guided", "image_train", f"--data_dir images {GUIDED_MODEL} {IMPROVED_TRAIN}"),
    (
        "classifier",
        "classifier_train",
        f"--data_dir images {CLASSIFIER_TRAIN} {CLASSIFIER} "
        "--noise_schedule cosine --diffusion_steps 24",
    ),
    (
        "guided_samples",
        "classifier_sample",
        f"{GUIDED_MODEL} --classifier_scale 1.0 "
        f"--classifier_path classifier/model000002.pt {CLASSIFIER} --model_path "
        f"guided/ema_0.9999_000002.pt {SAMPLE}",
    ),
    (
        "ddim_samples",
        "classifier_sample",
        f"--model_path guided/model000002.pt --classifier_path "
        f"classifier/model000002.pt {GUIDED_MODEL} {CLASSIFIER} --classifier_scale 1.0 "
        "--classifier_use_fp16 True --batch_size 2 --num_samples 3 --timestep_respacing ddim4 "
        "--use_ddim True",
    ),
    ("upsampler", "super_res_train", f"--data_dir images {GUIDED_UPSAMPLER} {IMPROVED_TRAIN}"),
    ("base", "image_sample", f"--model_path guided/model000002.pt {GUIDED_MODEL} {SAMPLE}"),
    (
        "large_samples",
        "super_res_sample",
        f"{GUIDED_UPSAMPLER} --model_path "
        f"upsampler/model000002.pt --base_samples small.npz {SAMPLE}",
    ),
    # DDIB
    *(
        (
            f"models/synthetic/log2D{task}",
            "synthetic_train",
            f"{DDIB} --noise_schedule linear --lr 1e-4 --task {task} {END}",
        )
        for task in (0, 1)
    ),
    ("points", "synthetic_sample", f"{DDIB} {POINTS} --task 1"),
    ("cycle", "synthetic_cycle", f"{DDIB} {POINTS} --source 0 --target 1 --out_dir cycle"),
    (
        "translation",
        "synthetic_translation",
        f"{DDIB} {POINTS} --source 0 --target 1 --out_dir translation",
    ),
    (
        "classes",
        "imagenet_translation",
        f"{GUIDED_MODEL} --classifier_scale 1.0 --source 0,1 "
        "--target 1,0 --val_dir images --classifier_path classifier --model_path guided "
        f"{CLASSIFIER} --timestep_respacing 4 --out_dir classes",
    ),
    # ADD
    (
        "domain",
        "image_train",
        f"--data_dir images {IMPROVED_MODEL} {IMPROVED_DIFFUSION} {IMPROVED_TRAIN}",
    ),
    (
        "sequences",
        "frequency_generating_m_samples",
        "--diffusion_steps=24 --amount=3 --data_dir "
        "images --source_model improved --target_model domain --out_dir sequences",
    ),
]


def main(folder: str) -> None:
    """Run all commands in a folder; the first that fails ends the process with its exit code."""
    os.chdir(folder)
    leave, dist_util.cleanup = dist_util.cleanup, lambda: None  # the ranks stay together
    for log, script, flags in COMMANDS:
        os.environ["OPENAI_LOGDIR"] = log
        load_script(script).main(flags.split())
    leave()


if __name__ == "__main__":
    main(sys.argv[1])
