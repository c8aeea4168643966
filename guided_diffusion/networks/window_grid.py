"""A feature map cut into windows, for attention inside them.

Conventions: a tensor of heads is [N, H, T, D] with T = height * width positions, row by row. The
grid of windows starts at the first position. A shifted grid starts half a window later along each
side that is longer than a window. Where windows do not divide a side, those at its edges are
smaller.

Reference: Liu et al. 2021 (Swin), https://arxiv.org/abs/2103.14030, section 3.2.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


class WindowGrid:
    """The windows of feature maps of one size.

    Maps are padded at the far edge to whole windows, and rolled so that a shifted grid starts at
    the first position. A window can then hold positions that do not belong together; `mask` tells
    them apart.

    Args:
        spatial: (height, width).
        window: positions on a side of a window.
        shifted: start the grid half a window after the first position.
    """

    def __init__(self, spatial: Sequence[int], window: int, shifted: bool = False) -> None:
        self.spatial, self.window = tuple(spatial), window
        self.starts = [window // 2 if shifted and side > window else 0 for side in spatial]
        self.padded = [-(-side // window) * window for side in spatial]
        self.across = [side // window for side in self.padded]

    def cut(self, x: Tensor) -> Tensor:
        """Cut maps into windows: [N, H, T, D] -> [N * windows, H, window * window, D]."""
        x = x.unflatten(2, self.spatial)
        down, right = (p - side for p, side in zip(self.padded, self.spatial, strict=True))
        x = F.pad(x, (0, 0, 0, right, 0, down)) if down or right else x
        return self._cut_padded(x)

    def _cut_padded(self, x: Tensor) -> Tensor:
        x = x.roll([-start for start in self.starts], (2, 3)) if any(self.starts) else x
        x = x.unflatten(3, (-1, self.window)).unflatten(2, (-1, self.window))  # N, H, a, w, b, w, D
        return x.permute(0, 2, 4, 1, 3, 5, 6).flatten(4, 5).flatten(0, 2)

    def join(self, x: Tensor) -> Tensor:
        """Join windows to maps: [N * windows, H, window * window, D] -> [N, H, T, D]."""
        x = x.unflatten(2, (self.window, self.window)).unflatten(0, (-1, *self.across))
        x = x.permute(0, 3, 1, 4, 2, 5, 6).flatten(4, 5).flatten(2, 3)
        x = x.roll(self.starts, (2, 3)) if any(self.starts) else x
        return x[:, :, : self.spatial[0], : self.spatial[1]].flatten(2, 3)

    def mask(self, count: int, device: torch.device) -> Tensor | None:
        """Compute the mask of attention inside the windows of N = `count` maps.

        Returns:
            Bool mask [N * windows, 1, window * window, window * window], true where a position
            sees another; None: each sees all of its window.
        """
        if self.padded == list(self.spatial) and not any(self.starts):
            return None
        number = self._cut_padded(self._window_numbers(device)[None, None, :, :, None])[:, 0, :, 0]
        together = number[:, :, None] == number[:, None, :]
        return together.expand(count, *together.shape).flatten(0, 1)[:, None]

    def _window_numbers(self, device: torch.device) -> Tensor:
        """Number the window of each position, [padded height, padded width]; -1: padding."""
        numbers = []
        for side, length, start in zip(self.spatial, self.padded, self.starts, strict=True):
            place = torch.arange(length, device=device)
            number = (place - start).div(self.window, rounding_mode="floor") + 1
            numbers.append(number.masked_fill(place >= side, -1))
        rows, columns = numbers[0][:, None], numbers[1]
        return (rows * (len(columns) + 2) + columns).masked_fill((rows < 0) | (columns < 0), -1)
