"""Classifier guidance: a sampler that is steered by the gradient of log p(y | x_t).

A classifier takes noisy images [N, C, H, W] and the timesteps of the process that made them
noisy, and returns logits [N, K]; classes are numbered 0..K-1. Labels y [N] go to the diffusion
model and to the classifier alike, as the samplers' `model_kwargs`.

Reference: arXiv:2105.05233, section 4.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch as th
import torch.nn.functional as F

from ..diffusion.reverse_process import CondFn, Model
from ..errors import ArgumentError
from ..models.domains import CLASSIFIER, IMAGE, Domain, load_classifier, load_domain
from ..runtime import execution


def classifier_gradient(classifier: Model, scale: float = 1.0) -> CondFn:
    """Return the cond_fn of a classifier, for the samplers of a diffusion.

    Args:
        classifier: maps noisy images and timesteps to logits.
        scale: factor of the gradient; above 1 it trades variety for certainty of the class.
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
    """A diffusion model, and the classifier that steers it if there is one.

    Attributes:
        domain: the diffusion model, class-conditional or not.
        classifier: of noisy images; None: no guidance.
        scale: of the guidance.
    """

    domain: Domain
    classifier: Domain | None
    scale: float = 1.0

    @property
    def model(self) -> Model:
        """The diffusion model as one that takes labels, if only to pass over them."""
        if self.domain.args["class_cond"]:
            return self.domain.model
        return lambda x, t, y=None: self.domain.model(x, t)

    @property
    def cond_fn(self) -> CondFn:
        """What steers the sampler, or None."""
        return self.classifier and classifier_gradient(self.classifier.model, self.scale)

    @property
    def identity(self) -> dict[str, Any]:
        """The flags and the digest of each network, as a run folder records them."""
        networks = {"model": self.domain, "classifier": self.classifier}
        return {
            f"{role}.{name}": value
            for role, network in networks.items()
            if network is not None
            for name, value in (network.args | {"sha256": network.sha256}).items()
        }

    def check_classes(self, flag: str, classes: Sequence[int]) -> None:
        """Check that the networks know the classes that they are asked for.

        Raises:
            UserError: naming the flag and the first class that one of them does not know.
        """
        for number in classes:
            if not 0 <= number < self.num_classes:
                raise ArgumentError(
                    flag,
                    f"expected classes from 0 to {self.num_classes - 1}, which the "
                    f"networks know, got {number}",
                )

    @property
    def num_classes(self) -> int:
        """How many classes all networks know that are told one."""
        known = [self.domain.model.num_classes] if self.domain.args["class_cond"] else []
        return min(known + ([self.classifier.args["out_channels"]] if self.classifier else []))


def load_guided(flags: Mapping[str, Any], given: Collection[str], device: th.device) -> Guided:
    """Load a diffusion model and its classifier as the flags of a command ask for.

    Args:
        flags: all flags, `model_path`, `classifier_path` and `classifier_scale` among them.
        given: names of those on the command line, which go before those of the trainings.
        device: where the networks go.

    Raises:
        UserError: if a file is missing, or the networks do not fit each other.
    """
    if not flags["model_path"]:
        raise ArgumentError(
            "model_path", "expected a checkpoint or a training run folder, got none"
        )
    own = {name: flags[name] for name in IMAGE.defaults()}
    override = {name: value for name, value in own.items() if name in given}
    domain = load_domain(flags["model_path"], override, "", device, assumed=own)
    execution.compiled(domain.model, flags["compile"])
    if not flags["classifier_path"]:
        if domain.args["class_cond"]:
            return Guided(domain, None)
        raise ArgumentError(
            "classifier_path",
            "expected a classifier, or a class-conditional --model_path; "
            f"{domain.origin} knows no classes",
        )
    own = {name: flags[name] for name in CLASSIFIER.defaults()}
    override = {name: value for name, value in own.items() if name in given}
    # A classifier without a record of its own: one made for this diffusion model.
    assumed = own | {name: value for name, value in domain.args.items() if name in own}
    classifier = load_classifier(flags["classifier_path"], override, device, assumed)
    execution.compiled(classifier.model, flags["compile"])
    _refuse_unequal(classifier, domain)
    return Guided(domain, classifier, flags["classifier_scale"])


def _refuse_unequal(classifier: Domain, domain: Domain) -> None:
    for flag in (
        "image_size",
        "in_channels",
        "diffusion_steps",
        "noise_schedule",
        "rescale_timesteps",
    ):
        values = classifier.args[flag], domain.args[flag]
        if values[0] != values[1]:
            raise ArgumentError(
                flag,
                f"classifier and diffusion model need the same; {classifier.origin} has "
                f"{values[0]!r}, {domain.origin} has {values[1]!r}",
            )
