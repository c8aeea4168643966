"""Settings of the noising process."""

import dataclasses

from ..config.settings import Settings, setting
from .gaussian_diffusion import LossType
from .schedules import SCHEDULES


@dataclasses.dataclass(frozen=True)
class ProcessSettings(Settings):
    """The noising process, and the prediction of the network."""

    learn_sigma: bool = setting(False, "predict the variance too (twice the output channels)")
    sigma_small: bool = setting(
        False, "variance of a step where it is not learned: the posterior's; False: beta"
    )
    diffusion_steps: int = setting(
        1000, "noise levels of the process in training", minimum=1, most=10**6
    )
    noise_schedule: str = setting("linear", "how noise grows with the timestep", choices=SCHEDULES)
    timestep_respacing: str = setting("", "timesteps to keep: N, ddimN or a,b,c; empty: all")
    use_kl: bool = setting(False, "train on the variational bound")
    predict_xstart: bool = setting(False, "the network predicts the clean image, not the noise")
    rescale_timesteps: bool = setting(False, "scale timesteps to 0..1000 before the network")
    rescale_learned_sigmas: bool = setting(False, "weigh the variational term of sigmas by 0.001")

    @property
    def loss_type(self) -> LossType:
        """Loss that training minimises."""
        if self.use_kl:
            return LossType.RESCALED_KL
        return LossType.RESCALED_MSE if self.rescale_learned_sigmas else LossType.MSE
