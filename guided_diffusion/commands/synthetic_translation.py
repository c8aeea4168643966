"""Move points of one distribution to another: encode with the source model, decode with the target.

Saves source points, noise and target points as .npz and as plots, in which a point keeps its
colour. Flags of network and process are read from the args.json beside each model.
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
    """Move the points."""
    point_translation.move_points(main, asked, network, process, run, execution)
