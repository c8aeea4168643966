"""Settings of a run of sequences."""

import dataclasses

from ..config.settings import setting
from ..data.reading import ReadingSettings


@dataclasses.dataclass(frozen=True)
class SequenceSettings(ReadingSettings):
    """Progressive sequences from a source to a target domain."""

    source_model: str = setting("", "source checkpoint or training run folder; empty: the demo")
    target_model: str = setting("", "target checkpoint or training run folder; empty: the demo")
    data_dir: str = setting(
        "", "folder of source images, with --stages a subfolder of it for each; empty: the demo's"
    )
    target_data_dir: str = setting(
        "", "folder of target images, for the way back of --bidirectional; demo: drawn tiles"
    )
    bidirectional: bool = setting(
        False, "go back as well, from the target's images to the source (or down the --stages)"
    )
    stages: str = setting(
        "",
        "two or more stages in their order, in place of source and target: NAME=RUN,NAME=RUN,..., "
        "each with its checkpoint or training run folder",
    )
    pairs: str = setting(
        "adjacent",
        "pairs of --stages to go between; adjacent: neighbours; all: also pairs with other stages "
        "between them, whose share in the soft labels is then 0",
        choices=("adjacent", "all"),
    )
    source: str = setting("0", "name of the source domain in files and labels")
    target: str = setting("1", "name of the target domain in files and labels")
    num_images: int = setting(
        0, "source images to use, in order of name; 0: all (demo: 2)", minimum=0
    )
    save_npy: bool = setting(True, "write source.npy, target.npy and diffway.npy")
    save_latents: bool = setting(False, "write latent.npy (float16)")
    dry_run: bool = setting(
        False,
        "print forwards, FLOPs, bytes on disk and time of the run, and make nothing",
        free=True,
    )
