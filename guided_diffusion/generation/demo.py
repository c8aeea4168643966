"""Small models and drawn tiles of `assets/demo`, on which the sampler runs by default."""

from pathlib import Path
from typing import Any

from ..config.settings import Group, Settings
from ..errors import ArgumentError
from .settings import SequenceSettings

# Where the package is installed, it holds the folder; in a checkout, the folder lies beside it.
_INSTALLED, _BESIDE = (place / "assets" / "demo" for place in Path(__file__).resolve().parents[1:3])
FOLDER = _INSTALLED if _INSTALLED.exists() else _BESIDE
PLACES = {
    "source_model": FOLDER / "gland",
    "target_model": FOLDER / "carcinoma",
    "data_dir": FOLDER / "source",
}
WAY_BACK = FOLDER / "target"  # tiles that the way back of --bidirectional starts from
FLAGS = {
    "source": "gland",
    "target": "carcinoma",
    "num_images": 2,
    "batch_size": 2,
    "precision": "auto",
    "depth_policy": "even",
}


def with_places(asked: Group) -> Group:
    """Return settings that name the demo's models and tiles, if they name neither model nor data.

    Args:
        asked: settings with the fields of `PLACES`.

    Raises:
        ArgumentError: if only some of the three places are named.
    """
    named = {name for name in PLACES if getattr(asked, name)}
    if named == set(PLACES):
        return asked
    if named:
        problem = f"expected together with --{min(named)}, got none"
        hint = "give all of --source_model, --target_model and --data_dir, or none for the demo"
        raise ArgumentError(min(PLACES.keys() - named), f"{problem}; {hint}")
    places = {name: str(path) for name, path in PLACES.items()}
    return asked.with_given(asked.given, **places)


def fill_in(asked: SequenceSettings, *others: Settings) -> tuple[Any, ...]:
    """Return settings with the demo's values where none were given, if models and data are its own.

    Args:
        asked: settings of the sequences.
        *others: further settings.

    Raises:
        ArgumentError: if only some of models and data are named.
    """
    placed = with_places(asked)
    if placed is asked:
        return asked, *others
    if placed.bidirectional and not placed.target_data_dir:
        placed = placed.replace(target_data_dir=str(WAY_BACK))

    def fill(group: Group) -> Group:
        chosen = {n: v for n, v in FLAGS.items() if n in group.values().keys() - group.given}
        return group.with_given(group.given, **chosen)

    return tuple(map(fill, (placed, *others)))
