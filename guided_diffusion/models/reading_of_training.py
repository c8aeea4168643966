"""How a model's training read its images: at the same scale, images for the model are read too."""

from ..data.reading import ReadingSettings
from ..runtime import logger
from .checkpoint import training_record
from .domains import Domain

SCALE = ("crop", "intensity_range")


def reading_for(
    domain: Domain, asked: ReadingSettings, names: tuple[str, ...] = SCALE
) -> ReadingSettings:
    """Return settings of reading for images that a model takes.

    What the command does not give is as in the training, and said; what differs from the training
    is warned of.

    Args:
        domain: the model.
        asked: settings of the command, alone or in a group with others.
        names: settings that are to be those of the training.

    Raises:
        ArgumentError: if the record of the training holds a value that is not allowed.
    """
    recorded, found = training_record(domain.origin).get("args", {}), asked.reading
    for name in (name for name in names if isinstance(recorded.get(name), str)):
        trained, own = recorded[name], getattr(found, name)
        if trained == own:
            continue
        if name in asked.given:
            used = f"used with --{name} {own or 'none'}"
            logger.warn(f"{domain.origin}: trained with --{name} {trained or 'none'}, {used}")
        else:
            logger.log(f"--{name} {trained}, as in the training of {domain.origin}")
            found = found.replace(**{name: trained})
    return found
