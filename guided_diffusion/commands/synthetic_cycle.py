"""Move points to another distribution and back, and measure how far from their start they end.

Prints mean and largest distance; saves the points of every stage as .npz and as plots, in which a
point keeps its colour. Flags of network and process are read from the args.json beside each model.
"""

from ..config.network_settings import PointNetworkSettings
from ..diffusion.settings import ProcessSettings
from ..runtime.command import STARTS_ANEW, command
from ..runtime.settings import ExecutionSettings, RunSettings
from ..translation import point_translation
from ..translation.settings import PointTranslationSettings


@command(interrupted=STARTS_ANEW)
def main(
    asked: PointTranslationSettings,
    network: PointNetworkSettings,
    process: ProcessSettings,
    run: RunSettings,
    execution: ExecutionSettings,
) -> None:
    """Move the points there and back."""
    point_translation.move_points(main, asked, network, process, run, execution, back=True)
