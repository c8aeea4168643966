"""Classifier guidance: a sampler that is steered by the gradient of log p(y | x_t).

A classifier takes noisy images [N, C, H, W] and the timesteps of the process that made them
noisy, and returns logits [N, K]; classes are numbered 0..K-1. Both the diffusion model and the
classifier get labels y [N], from the samplers' `model_kwargs`.

Reference: arXiv:2105.05233, section 4.
"""

from dataclasses import dataclass
from pathlib import Path

import torch as th
import torch.nn.functional as F

from ..config.network_settings import ClassifierSettings, ModelSettings
from ..data.classes import Classes
from ..diffusion.reverse_process import CondFn, Model
from ..diffusion.settings import ProcessSettings
from ..errors import ArgumentError
from ..models.domains import CLASSIFIER, Domain, load_asked, refuse_differing
from ..runtime import dist_util, logger
from .settings import GuidanceSettings


def classifier_gradient(classifier: Model, scale: float = 1.0) -> CondFn:
    """Return the cond_fn of a classifier, for the samplers of a diffusion.

    A scale above 1 trades variety for certainty of the class.
    """

    def cond_fn(x: th.Tensor, t: th.Tensor, y: th.Tensor) -> th.Tensor:
        with th.enable_grad():
            x = x.detach().requires_grad_(True)
            logits = classifier(x, t).float()
            chosen = F.log_softmax(logits, dim=-1).gather(1, y[:, None])
            return scale * th.autograd.grad(chosen.sum(), x)[0]

    return cond_fn


@dataclass
class Guided:
    """A diffusion model, class-conditional or not, and the classifier that steers it, if any."""

    domain: Domain
    classifier: Domain | None
    scale: float = 1.0  # of the guidance

    @property
    def model(self) -> Model:
        """The diffusion model, as a function that takes labels; it may ignore them."""
        if self.domain.network.class_cond:
            return self.domain.model
        return lambda x, t, y=None: self.domain.model(x, t)

    @property
    def cond_fn(self) -> CondFn:
        """Gradient that steers the sampler; None without a classifier."""
        if self.classifier is None:
            return None
        return classifier_gradient(self.classifier.model, self.scale)

    @property
    def models(self) -> dict[str, Domain | None]:
        """The networks by their role."""
        return {"model": self.domain, "classifier": self.classifier}

    @property
    def classes(self) -> Classes:
        """The classes that each network which takes a class knows.

        Raises:
            ArgumentError: if the two networks number classes differently, with both lists.
        """
        models = self.models.values()
        known = [model.classes for model in models if model and model.classes]
        known.sort(key=lambda classes: (not classes.named, len(classes)))
        first, last = known[0], known[-1]  # names count more than numbers alone
        same = first.same_as(last) if first.named and last.named else first.is_part_of(last)
        if not same:
            both = " and ".join(f"{classes.listed} ({classes.origin})" for classes in known)
            problem = "expected a classifier of the diffusion model's classes, found different ones"
            raise ArgumentError("classifier_path", f"{problem}: {both}")
        return first


def load_guided(
    model_path: str,
    guidance: GuidanceSettings,
    network: ModelSettings,
    classifier: ClassifierSettings,
    process: ProcessSettings,
    compile: bool = False,
) -> Guided:
    """Load a diffusion model and its classifier onto this rank's device.

    Given settings override the settings of the trainings; see `load_asked`. Both networks have the
    same process.

    Raises:
        UserError: if a file is missing, or the networks do not fit each other.
    """
    domain = load_asked(model_path, network, process, compile=compile)
    path, own = guidance.classifier_path, domain.args
    if not path:
        if domain.network.class_cond:
            if dist_util.rank() == 0:
                logger.log("no --classifier_path: images are made without guidance")
            return Guided(domain, None)
        expected = "expected a classifier, or a class-conditional --model_path"
        raise ArgumentError("classifier_path", f"{expected}; {domain.origin} knows no classes")
    if not Path(path).exists():
        problem = f"{path}: expected a checkpoint or a training run folder, found nothing"
        none = "; an empty path: no guidance" if domain.network.class_cond else ""
        raise ArgumentError("classifier_path", f"{problem}{none}")
    # A classifier without a record is assumed to be made for this diffusion model.
    guide = load_asked(path, classifier, process, kind=CLASSIFIER, compile=compile, assumed=own)
    same = "image_size", "in_channels", "diffusion_steps", "noise_schedule", "rescale_timesteps"
    refuse_differing("classifier and diffusion model", guide, domain, same)
    guided = Guided(domain, guide, guidance.classifier_scale)
    known = guided.classes
    unnamed = [
        model.label for model in (domain, guide) if model.classes and not model.classes.named
    ]
    if known.named and unnamed:
        logger.warn(f"the classes of {unnamed[0]} have no names; they are taken for {known.listed}")
    return guided
