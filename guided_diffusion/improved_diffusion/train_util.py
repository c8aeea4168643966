"""The training loop with the two methods that improved-diffusion's loop has for its last part."""

from guided_diffusion import train_util
from guided_diffusion.train_util import (
    find_ema_checkpoint,
    find_resume_checkpoint,
    get_blob_logdir,
    log_loss_dict,
    parse_resume_step_from_filename,
)

__all__ = [
    "TrainLoop", "find_ema_checkpoint", "find_resume_checkpoint", "get_blob_logdir",
    "log_loss_dict", "parse_resume_step_from_filename",
]  # fmt: skip


class TrainLoop(train_util.TrainLoop):
    """See `guided_diffusion.train_util.TrainLoop`."""

    def _optimize(self) -> None:
        if self.mp_trainer.use_fp16:
            self.optimize_fp16()
        else:
            self.optimize_normal()

    def optimize_fp16(self) -> None:
        """Move master parameters, weights and averages by the scaled float16 gradients."""
        super()._optimize()

    def optimize_normal(self) -> None:
        """Move weights and averages by the gradients."""
        super()._optimize()
