"""Settings of training."""

import dataclasses

from ..config.network_settings import MOST_CLASSES, NUM_CLASSES
from ..config.settings import Settings, setting
from ..diffusion.resample import SCHEDULE_SAMPLERS


@dataclasses.dataclass(frozen=True)
class LoopSettings(Settings):
    """The training loop."""

    schedule_sampler: str = setting("uniform", "timestep distribution", choices=SCHEDULE_SAMPLERS)
    lr: float = setting(1e-4, "learning rate of AdamW", minimum=0, most=1e6)
    weight_decay: float = setting(0.0, "weight decay of AdamW", minimum=0, most=1e3)
    batch_size: int = setting(1, "examples per step and per process", minimum=1, most=10**6)
    microbatch: int = setting(
        -1,
        "examples per forward, to save memory; -1: the whole batch",
        minimum=1,
        also=(-1,),
        free=True,  # of the numbers it changes the rounding alone
    )
    log_interval: int = setting(10, "steps between log rows", minimum=1, free=True)
    save_interval: int = setting(10000, "steps between checkpoints", minimum=1, free=True)
    resume_checkpoint: str = setting(
        "", "modelNNNNNN.pt or training run folder to start from, where --out_dir has none"
    )
    init_checkpoint: str = setting(
        "",
        "checkpoint or training run folder whose weights to start from, at step 0; flags of the "
        "network and its process that are not given are those of its args.json; it may have "
        "standard attention where this model has hybrid attention",
    )


@dataclasses.dataclass(frozen=True)
class DenoisingSettings(LoopSettings):
    """Training of a diffusion model."""

    lr_anneal_steps: int = setting(
        0, "steps over which --lr falls to 0, where training stops; 0: --lr stays", minimum=0
    )
    ema_rate: str = setting("0.9999", "decay of the averaged weights; several as 0.99,0.999")
    ema_warmup: bool = setting(
        False,
        "let averaged weights forget their start sooner: update t keeps at most (1 + t) / (10 + t)",
    )
    fp16_scale_growth: float = setting(
        1e-3, "growth of log2 of the loss scale per step", minimum=0, most=1
    )
    max_steps: int = setting(
        0, "steps in all, earlier ones of a resumed run counted; 0: no end", minimum=0, free=True
    )


@dataclasses.dataclass(frozen=True)
class GridSettings(Settings):
    """Pictures of samples while a model is trained."""

    sample_interval: int = setting(
        -1, "steps between grids of samples; -1: as --save_interval, 0: none", minimum=-1, free=True
    )
    sample_steps: int = setting(50, "DDIM steps of a grid of samples", minimum=1, free=True)


@dataclasses.dataclass(frozen=True)
class ClassifierTrainSettings(Settings):
    """Training of a classifier."""

    val_data_dir: str = setting("", "unseen images of the same classes to evaluate; empty: none")
    noised: bool = setting(True, "show noisy images, as guidance needs it; False: clean ones")
    iterations: int = setting(150000, "steps to train", minimum=1)
    anneal_lr: bool = setting(False, "let --lr fall to 0 over the --iterations")
    eval_interval: int = setting(5, "steps between batches of --val_data_dir", minimum=1, free=True)
    num_classes: int = setting(
        NUM_CLASSES,
        "classes that the network can tell apart; the data may have fewer",
        minimum=2,
        most=MOST_CLASSES,
    )
