"""Health of a training: which steps were skipped, which losses and weights are not finite.

Each step notes flags on its device. They are read together when a checkpoint is due, so that no
step waits for its device.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping

import torch as th

from ..errors import DivergedError
from ..runtime import dist_util, logger

MOST_PENDING = 1000  # steps whose flags are kept on the device
FEWEST = 10  # steps that are judged together, where saves are closer than that


class Health:
    """What befell the steps of a training since it was started or resumed.

    Args:
        checkpoint: file that the training goes on from; "" for a new one.
        done: number of steps done before.
        advice: end of the message where the training diverges: what to try.

    Attributes:
        steps: number of steps that were read.
        skipped: number of those that did not move the weights.
        newest: newest checkpoint; "" before the first.
        newest_step: number of steps done at that checkpoint.
    """

    def __init__(self, checkpoint: str = "", done: int = 0, advice: str = "") -> None:
        self.steps = self.skipped = 0
        self.newest, self._good, self._advice = checkpoint, "", advice
        self.newest_step = self._moved = self._start = done
        self._finite: bool | th.Tensor = True
        self._pending: list[tuple[th.Tensor, bool]] = []
        self._unjudged = 0  # steps since the last judgement
        self._recent: list[tuple[bool, bool]] = []  # of each step: was in vain, lost its loss

    @property
    def good(self) -> str:
        """Newest checkpoint after which a step moved the weights; "" if there is none."""
        self.read()
        return self.newest if self.newest_step < self._moved else self._good

    @property
    def last_save(self) -> str:
        """The newest checkpoint, in words."""
        return f"the last save is {self.newest}" if self.newest else "nothing was saved"

    def note_losses(self, losses: th.Tensor) -> None:
        """Note the losses [N] of a part of the present step's batch."""
        self._finite = losses.detach().isfinite().all() & self._finite

    def note_step(self, taken: bool | th.Tensor, searching: bool = False) -> None:
        """Note the end of a step.

        Args:
            taken: whether the step moved the weights.
            searching: whether a step that did not has lowered a loss scale, as it should.
        """
        both = taken, self._finite
        device = next((flag.device for flag in both if isinstance(flag, th.Tensor)), "cpu")
        # Filled on the device: a number that is sent there would wait for it.
        flags = [f if isinstance(f, th.Tensor) else th.full((), f, device=device) for f in both]
        self._pending.append((th.stack(flags), searching))
        self._finite = True
        if len(self._pending) >= MOST_PENDING:
            self.read()

    def note_save(self, checkpoint: str, done: int) -> None:
        """Note the file of a checkpoint saved after some steps; warn if the last one is gone."""
        if dist_util.rank() == 0 and is_gone(self.newest):
            logger.warn(f"{self.newest}, the checkpoint before this one, is gone")
        self._good, self.newest, self.newest_step = self.good, checkpoint, done

    def read(self) -> None:
        """Read the flags of the steps that are new."""
        if not self._pending:
            return
        flags, searching = zip(*self._pending, strict=True)
        rows = th.stack(flags).tolist()  # the device is waited for once
        for (taken, finite), lowered in zip(rows, searching, strict=True):
            # Once a scale was found, it needs no more than a step now and then to be lowered.
            search = lowered and finite and self.skipped == self.steps
            self.steps += 1
            self.skipped += not taken
            self._moved = self._start + self.steps if taken else self._moved
            self._recent.append((not (taken or search), not finite))
        self._unjudged += len(rows)
        self._pending = []

    def refuse_diverged(self, wrong: str, done: int, last: bool) -> None:
        """Refuse, on all ranks together, a training that one of them finds diverged.

        Args:
            wrong: name of what is not finite on this rank; "" if all is.
            done: number of steps done.
            last: whether the training ends here.

        Raises:
            DivergedError: if numbers are not finite, most steps since the last call were in vain,
                or the training ends without a step that moved the weights.
        """
        problem = f"the {wrong} are not finite" if wrong else self.judge()
        if problem := next(filter(None, dist_util.Ranks().gather(problem)), ""):
            with self.advising():
                raise DivergedError(f"step {done}: {problem}")
        if last and self.skipped == self.steps > 0:
            raise DivergedError(
                f"step {done}: nothing was trained, as each of the {self.steps} steps was part of "
                "the search for a loss scale; train for more steps"
            )

    @contextlib.contextmanager
    def advising(self) -> Iterator[None]:
        """Let a `DivergedError` also say what is left of the training, and what to try."""
        try:
            yield
        except DivergedError as error:
            left, gone = "no checkpoint was saved", ""
            if self.good:
                gone = ", which is gone" if is_gone(self.good) else ""
                left = f"the last good checkpoint is {self.good}{gone}"
            elif self.newest:
                left = f"no step went well after {self.newest}, so go back to one before it"
            on = " and that --resume_checkpoint" if self.good and not gone else ""
            problem = (
                f"{error}, so the training ends; {left}; {self._advice}, with another --out_dir{on}"
            )
            raise DivergedError(problem) from None

    def judge(self) -> str:
        """Tell what is wrong with the steps since the last call, and at least `FEWEST`; "" if good.

        Steps that search for the first loss scale are good if their loss is finite.
        """
        self.read()
        steps = self._recent[-max(self._unjudged, FEWEST) :]
        self._recent, self._unjudged = steps[-FEWEST:], 0
        vain, lossless = map(sum, zip(*steps, strict=True)) if steps else (0, 0)
        if 2 * vain > len(steps):
            return f"{vain} of the last {len(steps)} steps skipped, as gradients were not finite"
        if 2 * lossless > len(steps):
            return f"the loss was not finite in {lossless} of the last {len(steps)} steps"
        return ""


def is_gone(path: str) -> bool:
    """Return whether a local file is named that does not exist."""
    return bool(path) and "://" not in path and not os.path.exists(path)


def not_finite(groups: Mapping[str, Iterable[th.Tensor]]) -> str:
    """Return the name of the first group with a number that is not finite; "" without one."""
    # The largest number of each tensor: a sum of squares may overflow where no number does.
    largest = {
        name: th.stack([norm.float() for norm in th._foreach_norm(some, th.inf)]).max()
        for name, tensors in groups.items()
        if (some := [tensor for tensor in tensors if tensor.numel()])
    }
    if not largest:
        return ""
    finite = th.stack(list(largest.values())).isfinite().tolist()  # the device is waited for once
    return next((name for name, good in zip(largest, finite, strict=True) if not good), "")
