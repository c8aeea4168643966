"""Train the noisy-image classifier that guides a sampler, on a folder of labelled images.

The class of an image is its file name up to the first _, or with --labels folder the folder that
it lies in. Classes are numbered in alphabetical order; labels.json records the numbers. Running
the same command again resumes from the newest whole checkpoint in --out_dir.
"""

from ..config.network_settings import ClassifierSettings
from ..data.image_datasets import load_data
from ..data.settings import FolderSettings
from ..diffusion.settings import ProcessSettings
from ..runtime.command import command
from ..runtime.settings import ExecutionSettings, RunSettings
from ..training.class_records import classes_to_learn, record_classes
from ..training.classifier_training import ClassifierLoop, check_classes
from ..training.settings import ClassifierTrainSettings, LoopSettings
from ..training.starting_weights import settings_of_start
from ..training.training_run import Training, folder_of, train


@command(overrides={"lr": 3e-4, "batch_size": 4, "random_crop": True})
def main(
    loop: LoopSettings,
    images: FolderSettings,
    own: ClassifierTrainSettings,
    network: ClassifierSettings,
    process: ProcessSettings,
    run: RunSettings,
    execution: ExecutionSettings,
) -> None:
    """Train, resuming what the run folder holds."""
    # Take what is not given from the training that weights come from.
    begun = loop.init_checkpoint, main.name, folder_of(run, "results/classifier")
    network, process, own = settings_of_start(*begun, network, process, own)

    # Check the settings, and that the run folder holds no other run.
    training = Training(loop, network, process, run, execution)
    # With a constant rate, a run of more steps continues a run of fewer.
    free = () if own.anneal_lr else ("iterations",)
    folder = training.folder(main, "results/classifier", images, own, free=free)
    channels = network.in_channels
    classes = classes_to_learn(images, channels, loop, folder.path)
    check_classes(classes, own.num_classes, own.val_data_dir, channels, images.labels, images)

    # Build everything that a wrong flag or a broken file can stop.
    steps = own.iterations
    rate = {"lr_anneal_steps": steps if own.anneal_lr else 0, "max_steps": steps}
    rest = {"noised": own.noised, "eval_interval": own.eval_interval}
    trainer = training.create_loop(folder.path, ClassifierLoop, own.num_classes, **rate, **rest)
    options = {"image_size": network.image_size, "in_channels": channels}
    options |= {"batch_size": loop.batch_size, "class_cond": True, "classes": classes}
    options["seed"] = run.seed
    trainer.data = batches = load_data(start_step=trainer.resume_step, **options, **images.loading)
    if own.val_data_dir:
        val_images = images.replace(data_dir=own.val_data_dir, augment="none", random_crop=False)
        val_step = trainer.resume_step // own.eval_interval
        trainer.val_data = load_data(start_step=val_step, **options, **val_images.loading)

    # Claim the run folder and train.
    training.claim(folder)
    note, source = record_classes(classes, folder.path), batches.dataset.source
    train(trainer, note=note, images=source)
