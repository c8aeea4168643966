"""Predict the noise in any number of states with the network of a domain."""

import torch as th

from ..models.domains import Domain
from ..networks.attention import Priority, set_priority
from ..runtime.execution import autocast, upload
from ..runtime.settings import ExecutionSettings

_USUAL = ExecutionSettings()
_SMALL = 8  # images; batches of this size are not halved


class Predictor:
    """Predictor of the noise in states, for at most `max_batch` images at a time.

    Args:
        domain: trained model whose network predicts.
        execution: arithmetic of the network, and whether it is compiled.
        max_batch: most images per forward.
        priority: priority of the network's attention, where it has weights for both: "global" to
            encode a source, "local" to decode a target; None: no change.

    Attributes:
        max_batch: halved whenever the device runs out of memory.
        forwards: number of images that went through the network so far.
    """

    def __init__(
        self,
        domain: Domain,
        execution: ExecutionSettings = _USUAL,
        max_batch: int = 32,
        priority: Priority | None = None,
    ) -> None:
        self.domain, self.max_batch, self.priority = domain, max_batch, priority
        self.execution = execution
        self.forwards = 0

    def __call__(self, states: th.Tensor, timesteps: th.Tensor) -> th.Tensor:
        """Predict the noise, float32, in states [N, C, H, W] at timesteps int64 [N]."""
        timesteps = upload(timesteps, states.device)
        if self.priority:  # set in every call: one model may play both roles in turn
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
        # Freed memory of a CPU serves later tensors that fit in. Halved batches fit; other sizes
        # fragment it. A GPU's allocator prevents that itself, and small forwards cost a GPU more.
        size = self.max_batch
        while self.domain.device.type == "cpu" and size > max(left, _SMALL):
            size //= 2
        return min(size, left)

    def _predict(self, states: th.Tensor, timesteps: th.Tensor) -> th.Tensor:
        count, compiled = len(states), self.execution.compile
        if compiled:  # compiling is anew for each size: fill up to a power of two
            missing = min(self.max_batch, 1 << (count - 1).bit_length()) - count
            states, timesteps = (
                th.cat([values, values[:1].expand(missing, *values.shape[1:])])
                for values in (states, timesteps)
            )
        with autocast(states.device, self.execution.precision):
            eps = self.domain.diffusion.predict_eps(self.domain.model, states, timesteps)
        # The next call may overwrite what compiled code returned.
        return eps[:count].float().clone() if compiled else eps.float()
