"""Settings that most commands share: seed, run folder, device and precision."""

import dataclasses

from ..config.settings import Settings, setting
from .stop_requests import seconds_of

PRECISIONS = ("fp32", "bf16", "auto")


@dataclasses.dataclass(frozen=True)
class SeedSettings(Settings):
    """Random draws."""

    seed: int = setting(0, "base seed; every random draw follows from it", minimum=0, most=2**63)


@dataclasses.dataclass(frozen=True)
class RunSettings(SeedSettings):
    """The run."""

    out_dir: str = setting("", "folder of the run; empty: one of its own in results/", free=True)
    time_limit: str = setting(
        "",
        "time that the command may take, as HH:MM, HH:MM:SS or D-HH:MM: it saves and ends before, "
        "and the same command again goes on; empty: no limit",
        free=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        seconds_of(self.time_limit)


@dataclasses.dataclass(frozen=True)
class DeviceSettings(Settings):
    """Device of networks."""

    device: str = setting("", "cpu, cuda, cuda:N or mps; empty: cuda where there is one", free=True)


@dataclasses.dataclass(frozen=True)
class ExecutionSettings(DeviceSettings):
    """Device and arithmetic of networks."""

    precision: str = setting(
        "fp32", "arithmetic of networks; auto: bf16 where the hardware has it", choices=PRECISIONS
    )
    compile: bool = setting(
        False,
        "compile the network by torch.compile, which takes a minute or more for each shape of "
        "input before it saves time; for GPUs and long runs",
        free=True,
    )
