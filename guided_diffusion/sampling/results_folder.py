"""The run folder of a command that draws or measures images with models.

Its name and its record follow from the settings and from the weights, so that two models or seeds
never write the same files. The paths of the weights do not count: a run that moved is the same.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config import network_settings
from ..config.settings import Settings, defaults, joined
from ..data.image_source import ImageSource
from ..diffusion.settings import ProcessSettings
from ..errors import ArgumentError
from ..models.domains import Domain, identity_of
from ..runtime.command import Command
from ..runtime.run_folder import RECORD, RunFolder, default_folder, fingerprint, read_args

PLACES = {"model_path", "classifier_path", "base_samples", "data_dir"}
OF_NETWORKS = defaults(
    network_settings.ModelSettings,
    network_settings.SuperResSettings,
    network_settings.ClassifierSettings,
    ProcessSettings,
)


def results_folder(
    command: Command,
    name: str,
    results: str,
    settings: Sequence[Settings],
    models: Mapping[str, Domain | None],
    **others: Any,
) -> RunFolder:
    """Return the run folder of a command, not claimed yet.

    It is the folder of --out_dir, else of the environment's OPENAI_LOGDIR, else one in results/. A
    run of another command in OPENAI_LOGDIR, such as the training, stays: a folder in it is taken.

    Args:
        command: the command, for its name and defaults.
        name: beginning of the folder's name in results/.
        results: pattern of the names of its results.
        settings: settings of the command, those of networks and processes excepted.
        models: {role: model, or None} of all that is loaded.
        **others: further values that decide the results, {name: value}.

    Raises:
        UserError: if the folder holds another run, or results without a record.
    """
    asked = {**joined(*settings), **others, **identity_of(models)}
    known = dict(command.defaults)
    for role in models:
        known |= {f"{role}.{key}": value for key, value in OF_NETWORKS.items()}
    free = command.free | PLACES
    default = default_folder(name, asked, free, known)
    logs = os.getenv("OPENAI_LOGDIR")
    path = Path(asked["out_dir"] or logs or default)
    if logs and not asked["out_dir"]:
        script = read_args(path / RECORD).get("script", command.name)
        path = path if script == command.name else path / default.name
    folder = RunFolder(path, command.name, asked, free, known)
    folder.refuse_other_run()
    found = sorted(path.glob(results))
    if found and not (path / RECORD).exists():
        problem = f"{path} holds {found[0].name} of a run that left no record of its flags"
        raise ArgumentError("out_dir", f"{problem}; give another folder, or move that file away")
    return folder


def names_of(images: ImageSource) -> str:
    """Return a digest of the names of images, relative to their place."""
    place = images.path if images.path.is_dir() else images.path.parent
    names = [os.path.relpath(images.name(index), place) for index in range(len(images))]
    return fingerprint({"names": names})
