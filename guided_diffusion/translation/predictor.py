"""The network of a domain as a function that predicts the noise in states of any number."""

import torch as th

from ..models.domains import Domain
from ..networks.attention import Priority, set_priority
from ..runtime.execution import autocast, upload
from ..runtime.settings import ExecutionSettings

_USUAL = ExecutionSettings()
_SMALL = 8  # images; what is left below goes through the network at once


class Predictor:
    """Predicts the noise in states, at most `max_batch` images at a time.

    Args:
        domain: source or target, whose network predicts.
        execution: arithmetic of the network, and whether it is compiled.
        max_batch: images per forward at most.
        priority: priority of the network's attention, where it has weights for both: "global" as
            a source, "local" as a target; None: as it stands.

    Attributes:
        max_batch: halved whenever the device runs out of memory.
        forwards: images that went through the network so far.
    """

    def __init__(
        self,
        domain: Domain,
        execution: ExecutionSettings = _USUAL,
        max_batch: int = 32,
        priority: Priority | None = None,
    ) -> None:
        self.domain, self.max_batch, self.priority = domain, max_batch, priority
        self.precision = execution.precision
        self.compiled = execution.compile
        self.forwards = 0

    def __call__(self, states: th.Tensor, timesteps: th.Tensor) -> th.Tensor:
        """Return the noise in states [N, C, H, W] at timesteps int64 [N], float32."""
        timesteps = upload(timesteps, states.device)
        if self.priority:  # in every call: one model can be asked in both roles by turns
            set_priority(self.domain.model, self.priority)
        parts, first = [], 0
        while first < len(states):
            part = slice(first, first + self._size(len(states) - first))
            try:
                parts.append(self._predict(states[part], timesteps[part]))
            except th.cuda.OutOfMemoryError:
                if self.max_batch == 1:
                    raise
                self.max_batch //= 2
                continue
            first = part.stop
        self.forwards += len(states)
        return parts[0] if len(parts) == 1 else th.cat(parts)

    def _size(self, left: int) -> int:
        # A CPU's freed memory is used again only by what fits in: halves do, other sizes cut it up
        # ever more. A GPU's allocator sees to that by itself, and small forwards cost it more.
        size = self.max_batch
        while self.domain.device.type == "cpu" and size > max(left, _SMALL):
            size //= 2
        return min(size, left)

    def _predict(self, states: th.Tensor, timesteps: th.Tensor) -> th.Tensor:
        count = len(states)
        if self.compiled:  # for every size anew: so only for powers of two
            size = min(self.max_batch, 1 << (count - 1).bit_length())
            states, timesteps = (_filled_up(values, size) for values in (states, timesteps))
        with autocast(states.device, self.precision):
            eps = self.domain.diffusion.predict_eps(self.domain.model, states, timesteps)
        # The next call may overwrite what compiled code returned.
        return eps[:count].float().clone() if self.compiled else eps.float()


def _filled_up(values: th.Tensor, size: int) -> th.Tensor:
    # With repetitions of the first: [N, ...] to [size, ...].
    return th.cat([values, values[:1].expand(size - len(values), *values.shape[1:])])
