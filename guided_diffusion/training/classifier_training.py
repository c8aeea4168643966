"""Training of the noisy-image classifier that guides a sampler.

The classifier gets images as the sampler will give them to it: noised to a random timestep t, with
t on the scale that the diffusion model gets. See `train_util` for what a step depends on.
"""

from collections.abc import Iterator
from typing import Any

import torch as th
import torch.nn.functional as F

from ..data.classes import Classes
from ..data.reading import READING, ReadingSettings
from ..errors import ArgumentError, UserError, blame
from ..models.mismatch import CLASSIFIER_SIGNS
from ..runtime import execution
from ..runtime.random_streams import Stream
from .class_records import counted_classes, open_labelled
from .loss_log import log_loss_dict
from .train_util import Batch, Conditions, TrainLoop


def correct_at(logits: th.Tensor, labels: th.Tensor, k: int) -> th.Tensor:
    """Return 1 for each image whose class is among its k highest logits, else 0, float32 [N].

    Args:
        logits: scores [N, K].
        labels: classes, int64 [N].
        k: number of guesses; above K, all classes are guesses.
    """
    guesses = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return (guesses == labels[:, None]).any(dim=1).float()


def classification(logits: th.Tensor, labels: th.Tensor) -> dict[str, th.Tensor]:
    """Compute cross entropy in nats, and top-1 and top-5 correctness, of each image, [N] each."""
    logits = logits.float()
    return {
        "loss": F.cross_entropy(logits, labels, reduction="none"),
        "acc@1": correct_at(logits, labels, 1),
        "acc@5": correct_at(logits, labels, 5),
    }


class ClassifierLoop(TrainLoop):
    """Training loop of a classifier.

    It logs train_loss, train_acc@1 and train_acc@5, and val_* for unseen images.

    Args:
        *args: arguments of `TrainLoop`, with an `EncoderUNetModel`, and "y" among the conditions.
        noised: whether images are noised; otherwise they are clean, with timestep 0.
        val_data: endless batches of unseen images of this rank, or None.
        eval_interval: steps between batches of unseen images.
        **options: keywords of `TrainLoop`; no average of the weights is kept.
    """

    log_prefix = "train_"
    end_flags = ("iterations",)
    fp16_flag = "classifier_use_fp16"
    signs_of_flags = CLASSIFIER_SIGNS

    def __init__(
        self,
        *args: Any,
        noised: bool = True,
        val_data: Iterator[Batch] | None = None,
        eval_interval: int = 5,
        **options: Any,
    ) -> None:
        super().__init__(*args, ema_rate=None, **options)
        self.noised, self.val_data, self.eval_interval = noised, val_data, eval_interval

    def run_step(self, batch: th.Tensor, cond: Conditions) -> None:
        """Do one optimizer step, and evaluate unseen images at every `eval_interval`."""
        super().run_step(batch, cond)
        if self.val_data is not None and (self.done + 1) % self.eval_interval == 0:
            self.evaluate(*next(self.val_data))

    def _optimize(self) -> None:
        self._anneal_lr()  # before the step, as upstream's script for classifiers
        self._take_step()

    @th.no_grad()
    def evaluate(self, batch: th.Tensor, cond: Conditions) -> None:
        """Log loss and accuracy of a batch of unseen images."""
        timesteps, _, noise = self._draws(batch, Stream.VALIDATION_NOISE)
        self.model.eval()
        for start in range(0, len(batch), self.microbatch):
            part = slice(start, start + self.microbatch)
            tensors = batch, noise, cond["y"]
            images, eps, y = (execution.upload(values[part], self.device) for values in tensors)
            with execution.autocast(self.device, self.precision):
                losses = self._losses(images, {"y": y}, timesteps[part], eps)
            named = {f"val_{key}": value for key, value in losses.items()}
            log_loss_dict(self.diffusion, timesteps[part], named)
        self.model.train()

    def _draws(self, batch: th.Tensor, *stream: Stream) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        t, weights, noise = super()._draws(batch, *stream)
        if not self.noised:
            t, weights = th.zeros_like(t), th.ones_like(weights)
        return t, weights, noise

    def _losses(
        self, images: th.Tensor, cond: Conditions, t: th.Tensor, noise: th.Tensor
    ) -> dict[str, th.Tensor]:
        inputs = self.diffusion.q_sample(images, t, noise) if self.noised else images
        logits = self.ddp_model(inputs, self.diffusion.network_timesteps(t))
        return classification(logits, cond["y"])


def check_classes(
    classes: Classes,
    num_classes: int,
    val_data_dir: str,
    in_channels: int,
    labels: str,
    reading: ReadingSettings = READING,
) -> None:
    """Check the classes of a classifier, and that the unseen images have the same.

    Args:
        classes: classes to learn.
        num_classes: number of outputs of the network.
        val_data_dir: folder of the unseen images, or "".
        in_channels: channels of an image.
        labels: name of the label source, one of `LABEL_SOURCES`.
        reading: settings of how files are read.

    Raises:
        UserError: if there are too many or too few classes, or the unseen images have others.
    """
    if not 2 <= len(classes) <= num_classes:
        bounds = "2" if num_classes == 2 else f"2 to {num_classes}"
        expected = f"expected {bounds} classes (--num_classes), found {len(classes)}"
        ways = "; one class cannot be told from another" if len(classes) < 2 else ""
        raise ArgumentError("data_dir", f"{expected}: {classes.listed} ({classes.origin}){ways}")
    if val_data_dir:
        with blame("val_data_dir"):
            found = counted_classes(open_labelled(val_data_dir, in_channels, labels, reading))
            classes.refuse_unknown(found)
            if len(found) < len(classes):
                listed = ", ".join(found.numbers)
                raise UserError(f"expected images of all classes {classes.listed}, found {listed}")
