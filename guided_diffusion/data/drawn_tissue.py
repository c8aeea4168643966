"""Synthetic H&E-like tissue of a chosen severity, and a measure of the severity of a tile.

Positions and lengths are fractions of the tile's side, so that a tile of any size shows the same
tissue. Severity 0 is healthy glands, 1 is sheets of atypical nuclei. Amounts of stain are optical
densities to base 10 along unit stain vectors (Beer-Lambert). No random number depends on severity:
a seed names one piece of tissue, and nearby severities change it little. The stain has a random
stream of its own, so colour depends on severity only through nuclei and cytoplasm.

Reference: Ruifrok & Johnston, "Quantification of histochemical staining by color deconvolution",
Analytical and Quantitative Cytology and Histology 23, 2001.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from ..errors import require
from ..runtime.random_streams import Stream, generator

SUPERSAMPLE = 4
FIELD = 64  # side in px of the tile at which nuclei are measured
MIN_SIZE = 16
WHITE = 244.0  # 8-bit brightness of unstained glass
# RGB densities of haematoxylin and eosin
STAINS = np.array([[0.630, 0.700, 0.336], [0.130, 0.930, 0.344]])
GOLDEN_TURN = np.pi * (3.0 - np.sqrt(5.0))
GLAND_SPACING = 0.52
LATTICE = 5  # glands per side of the lattice, which is larger than the tile
# Nuclei per gland at severity 0 and 1; golden angles space Fibonacci counts evenly.
RING_NUCLEI, SHEET_NUCLEI = 21, 34
STROMAL_NUCLEI = 34
INK = 1.7  # haematoxylin density that an 8-bit canvas value of 255 stands for
NUCLEUS_VERTICES = 14
OUTLINE_VERTICES = 48
# Least haematoxylin of nuclei: between basophilic cytoplasm and the palest nuclei.
NUCLEAR_DENSITY = 0.37
SMALLEST_NUCLEUS = 4  # area, px at the scale of FIELD
PEAK_SIGMA = 1.0  # width of the blur that peaks stand out from, px at the scale of FIELD
# Intercept and slope on the root of the area fraction. After a change of the drawing, fit them
# again: `fit_severity(range(10000, 12000))` of tests/data/test_drawn_tissue.py.
SEVERITY_FIT = (-1.064, 2.684)


@dataclasses.dataclass(frozen=True)
class _Glands:
    """The glands of one piece of tissue."""

    centre: np.ndarray  # [G, 2]
    radius: np.ndarray  # [G]
    stretch: np.ndarray  # [G] long semi-axis over radius
    angle: np.ndarray  # [G] angle of the long axis
    phase: np.ndarray  # [G, 4] phases of the waves that make the outline irregular
    lumen: np.ndarray  # [G] in [-1, 1]; high: the gland keeps its lumen long


@dataclasses.dataclass(frozen=True)
class _Nuclei:
    """Ellipse-like nuclei."""

    centre: np.ndarray  # [N, 2]
    axes: np.ndarray  # [N, 2] semi-axes
    angle: np.ndarray  # [N] angle of the first axis
    lobe: np.ndarray  # [N, 2] amplitude and phase of the dent in the membrane
    ink: np.ndarray  # [N] haematoxylin density


def _between(rng: np.random.Generator, low: float, high: float, *shape: int) -> np.ndarray:
    return low + (high - low) * rng.random(shape)


def _ramp(x: np.ndarray | float, low: float, high: float) -> np.ndarray:
    """Return a smooth step from 0 at `low` to 1 at `high`."""
    t = np.clip((np.asarray(x, dtype=float) - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def _disorder(severity: float) -> float:
    """Return the loss of architecture in [0, 1], which lags behind the change of single nuclei."""
    return severity**1.5


def _turn(points: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Rotate `points` [..., 2] by `angle` [...]."""
    cos, sin = np.cos(angle), np.sin(angle)
    x, y = points[..., 0], points[..., 1]
    return np.stack([cos * x - sin * y, sin * x + cos * y], axis=-1)


def _place_glands(seed: int) -> _Glands:
    """Put glands on a jittered, turned hexagonal lattice that overhangs the tile."""
    rng = generator(seed, Stream.TISSUE_GLANDS)
    row, column = np.divmod(np.arange(LATTICE**2), LATTICE)
    hexagonal = np.stack([column + 0.5 * (row % 2), row * np.sqrt(0.75)], axis=-1)
    hexagonal -= hexagonal.mean(axis=0)
    tilt, offset = _between(rng, 0.0, np.pi, 1), _between(rng, -0.5, 0.5, 2)
    count = len(hexagonal)
    jitter = _between(rng, -0.09, 0.09, count, 2)
    return _Glands(
        centre=0.5 + GLAND_SPACING * _turn(hexagonal + offset + jitter, tilt),
        radius=_between(rng, 0.185, 0.225, count),
        stretch=_between(rng, 1.0, 1.16, count),
        angle=tilt + _between(rng, -0.6, 0.6, count),
        phase=_between(rng, 0.0, 2.0 * np.pi, count, 4),
        lumen=_between(rng, -1.0, 1.0, count),
    )


def _boundary(
    glands: _Glands, theta: np.ndarray, rho: np.ndarray | float, severity: float
) -> np.ndarray:
    """Return points [G, K, 2] at angles `theta` [G, K] and radii `rho`; 1: basement membrane."""
    disorder = _disorder(severity)
    rough = 0.015 + 0.085 * disorder
    waves = sum(
        np.cos(order * theta + phase[:, None]) / np.sqrt(order - 1.0)
        for order, phase in zip((2, 3, 5, 7), glands.phase.T, strict=True)
    )
    radius = glands.radius[:, None] * (1.0 + 0.34 * disorder)
    radius = radius * (1.0 + rough * waves) * rho
    stretch = glands.stretch[:, None]
    long, short = radius * stretch, radius / stretch
    ellipse = np.stack([long * np.cos(theta), short * np.sin(theta)], axis=-1)
    return glands.centre[:, None] + _turn(ellipse, glands.angle[:, None])


def _lumen_radius(glands: _Glands, severity: float) -> np.ndarray:
    """Return the radius [G, 1] of each shrinking lumen, in units of its gland's radius."""
    shrink = np.clip(severity / (0.94 + 0.12 * glands.lumen), 0.0, 1.0) ** 1.3
    return ((0.47 + 0.06 * glands.lumen) * (1.0 - shrink))[:, None]


def _semi_axes(size: np.ndarray, longer: np.ndarray) -> np.ndarray:
    """Return the semi-axes [..., 2] of ellipses with the area of a circle of radius `size`."""
    return np.stack([size * np.sqrt(longer), size / np.sqrt(longer)], axis=-1)


def _epithelium(seed: int, glands: _Glands, severity: float) -> _Nuclei:
    """Place the nuclei of glands: rings that stratify and at last fill the tile."""
    rng = generator(seed, Stream.TISSUE_EPITHELIUM)
    shape = (len(glands.centre), SHEET_NUCLEI)
    loss = _disorder(severity)
    order = np.arange(SHEET_NUCLEI)
    start = _between(rng, 0.0, 2.0 * np.pi, shape[0], 1)
    wobble = _between(rng, -1.0, 1.0, *shape) * (0.04 + 0.16 * loss)
    theta = start + order * GOLDEN_TURN + wobble
    sheet = np.sqrt((order + rng.random(shape)) / SHEET_NUCLEI) * 1.08
    ring = 0.85 + _between(rng, -0.02, 0.02, *shape)
    rho = ring * (1.0 - loss) + sheet * loss
    lumen = _lumen_radius(glands, severity)
    rho = np.maximum(rho, lumen + 0.2 * _ramp(lumen, 0.0, 0.15))
    drift = _between(rng, -1.0, 1.0, *shape, 2) * 0.035 * loss
    centre = _boundary(glands, theta, rho, severity) + drift
    away = centre - glands.centre[:, None]
    radial = np.arctan2(away[..., 1], away[..., 0])

    present = np.clip(RING_NUCLEI + (SHEET_NUCLEI - RING_NUCLEI) * loss - order, 0.0, 1.0)
    spread = _between(rng, -1.0, 1.0, *shape) * (0.06 + 0.42 * severity)
    size = 0.0245 * (1.0 + 0.38 * severity) * (1.0 + spread) * present
    longer = 1.22 + _between(rng, -0.15, 0.7, *shape) * severity
    dent = 0.14 * severity * rng.random(shape)
    lobe = np.stack([dent, _between(rng, 0.0, 2.0 * np.pi, *shape)], axis=-1)
    ink = 0.66 + 0.22 * severity + _between(rng, -1.0, 1.0, *shape) * (0.04 + 0.18 * severity)
    tilt = _between(rng, -1.0, 1.0, *shape) * (0.15 + 1.3 * loss)
    return _Nuclei(
        centre=centre.reshape(-1, 2),
        axes=_semi_axes(size, longer).reshape(-1, 2),
        angle=(radial + tilt).reshape(-1),
        lobe=lobe.reshape(-1, 2),
        ink=ink.reshape(-1),
    )


def _stroma(seed: int, glands: _Glands, severity: float, grain: float) -> _Nuclei:
    """Place spindle nuclei along the fibres; they shrink where a growing gland reaches them."""
    rng = generator(seed, Stream.TISSUE_STROMA)
    centre = _between(rng, -0.05, 1.05, STROMAL_NUCLEI, 2)
    away = centre[:, None] - glands.centre  # [N, G, 2]
    theta = np.arctan2(away[..., 1], away[..., 0]).T - glands.angle[:, None]
    edge = _boundary(glands, theta, 1.0, severity)
    reach = np.linalg.norm(edge - glands.centre[:, None], axis=-1)
    gap = np.min(np.linalg.norm(away, axis=-1).T - reach, axis=0)
    size = _between(rng, 0.0135, 0.019, STROMAL_NUCLEI) * _ramp(gap, 0.0, 0.03)
    longer = _between(rng, 1.2, 2.6, STROMAL_NUCLEI)
    return _Nuclei(
        centre=centre,
        axes=_semi_axes(size, longer),
        angle=grain + _between(rng, -0.5, 0.5, STROMAL_NUCLEI),
        lobe=np.zeros((STROMAL_NUCLEI, 2)),
        ink=_between(rng, 0.7, 0.85, STROMAL_NUCLEI),
    )


def _draw(outlines: np.ndarray, fills: Sequence[int], size: int) -> np.ndarray:
    """Fill polygons [P, K, 2] in turn, softened as a lens would: [size, size] in [0, 1]."""
    side = size * SUPERSAMPLE
    canvas = Image.new("L", (side, side), 0)
    pen = ImageDraw.Draw(canvas)
    for outline, fill in zip(outlines * side, fills, strict=True):
        pen.polygon(outline.ravel().tolist(), fill=fill)
    soft = canvas.filter(ImageFilter.GaussianBlur(0.35 * side / FIELD))
    return np.asarray(soft.reduce(SUPERSAMPLE), dtype=float) / 255.0


def _paint(nuclei: _Nuclei, size: int) -> np.ndarray:
    """Return the haematoxylin [size, size] of nuclei, parted from one another by clear halos."""
    theta = np.linspace(0.0, 2.0 * np.pi, NUCLEUS_VERTICES, endpoint=False)
    dent = 1.0 + nuclei.lobe[:, :1] * np.cos(3.0 * theta + nuclei.lobe[:, 1:])
    circle = np.stack([np.cos(theta), np.sin(theta)], axis=-1)
    shape = _turn(dent[..., None] * nuclei.axes[:, None] * circle, nuclei.angle[:, None])
    seen = (nuclei.axes[:, 1] > 0.002) & np.all(np.abs(nuclei.centre - 0.5) < 0.57, axis=-1)
    halo, body = ((nuclei.centre[:, None] + scale * shape)[seen] for scale in (1.16, 1.0))
    outlines = np.stack([halo, body], axis=1).reshape(-1, NUCLEUS_VERTICES, 2)
    fills = [fill for ink in nuclei.ink[seen] for fill in (0, round(255.0 * ink / INK))]
    return _draw(outlines, fills, size) * INK


def _fibres(seed: int, grain: float, size: int) -> np.ndarray:
    """Draw wavy bands along the angle `grain`, [size, size] in about [-1, 1]."""
    rng = generator(seed, Stream.TISSUE_FIBRES)
    phase = _between(rng, 0.0, 2.0 * np.pi, 4)
    axis = (np.arange(size) + 0.5) / size
    grid = np.stack(np.meshgrid(axis, axis), axis=-1)  # x along columns
    along, across = np.moveaxis(_turn(grid, np.asarray(-grain)), -1, 0)
    bent = across + 0.05 * np.sin(6.0 * along + phase[0])
    return 0.6 * np.sin(38.0 * bent + phase[1]) + 0.4 * np.sin(61.0 * bent + 5.0 * along + phase[2])


def _stain(seed: int, haematoxylin: np.ndarray, eosin: np.ndarray) -> np.ndarray:
    """Return RGB uint8 [size, size, 3] of densities [size, size] under this tile's stain."""
    rng = generator(seed, Stream.TISSUE_STAIN)
    vectors = STAINS + _between(rng, -0.045, 0.045, 2, 3)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    strength = _between(rng, 0.9, 1.1, 2)
    density = np.stack([haematoxylin, eosin], axis=-1) * strength @ np.maximum(vectors, 0.0)
    return np.rint(WHITE * 10.0**-density).astype(np.uint8)


def draw_tile(seed: int, severity: float, size: int = FIELD) -> np.ndarray:
    """Draw a tile of glandular tissue, RGB uint8 [size, size, 3].

    Args:
        seed: number of the piece of tissue and its stain, 0 or more.
        severity: severity in [0, 1]; 0: round glands, 1: sheets of crowded, large, dark nuclei.
        size: side in pixels, at least 16. The field of view is the same at every size.

    Raises:
        ValueError: if `severity` is outside [0, 1], `size` below 16 or `seed` negative.
    """
    if not 0.0 <= severity <= 1.0:
        raise ValueError(f"severity: expected a number in [0, 1], got {severity}")
    if size < MIN_SIZE:
        raise ValueError(f"size: expected at least {MIN_SIZE} pixels, got {size}")
    if seed < 0:
        raise ValueError(f"seed: expected a non-negative integer, got {seed}")
    glands = _place_glands(seed)
    grain = float(glands.angle[0])
    circle = np.linspace(0.0, 2.0 * np.pi, OUTLINE_VERTICES, endpoint=False)
    theta = np.tile(circle, (len(glands.centre), 1))
    gland, lumen = (
        _draw(_boundary(glands, theta, rho, severity), [255] * len(theta), size)
        for rho in (1.0, _lumen_radius(glands, severity))
    )
    stroma = _paint(_stroma(seed, glands, severity, grain), size)
    nuclei = np.maximum(stroma, _paint(_epithelium(seed, glands, severity), size))

    fibre = 0.29 + 0.06 * _fibres(seed, grain, size)
    eosin = fibre + (0.21 - fibre) * gland
    basophilia = 0.05 + (0.02 + 0.13 * _disorder(severity)) * gland
    filled = 1.0 - 0.93 * lumen
    covered = np.clip(nuclei / 0.8, 0.0, 1.0)
    haematoxylin = basophilia * filled + nuclei
    return _stain(seed, haematoxylin, eosin * filled * (1.0 - 0.45 * covered))


@dataclasses.dataclass(frozen=True)
class NuclearMeasure:
    """Size and number of the nuclei of one tile, seen at the scale where its side is 64 px."""

    area_fraction: float  # share of the tile that nuclei cover, 0..1
    density: float  # nuclei per 1000 px; overlapping ones count as one, so a lower bound
    size_spread: float  # coefficient of variation of their areas; 0 where fewer than two are seen


def measure(image: np.ndarray) -> NuclearMeasure:
    """Measure the nuclei of a tile, RGB uint8 [H, W, 3], brought to the scale of 64 px a side.

    Raises:
        ValueError: if `image` is not RGB uint8.
        MissingExtraError: if scipy, of the extra `metrics`, is missing.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image: expected uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
    ndimage = require("scipy.ndimage", "metrics")
    zoom = FIELD / np.sqrt(image.shape[0] * image.shape[1])
    scaled = (round(image.shape[1] * zoom), round(image.shape[0] * zoom))
    tile = np.asarray(Image.fromarray(image).resize(scaled, Image.Resampling.BOX), dtype=float)

    # Unmix haematoxylin from eosin and from a third, orthogonal stain.
    residual = np.cross(*STAINS)
    basis = np.stack([*STAINS, residual / np.linalg.norm(residual)])
    density = -np.log10(np.maximum(tile, 1.0) / WHITE)
    haematoxylin = (density @ np.linalg.inv(basis))[..., 0]

    # Number its peaks: touching nuclei part where it dips.
    nuclear = haematoxylin > NUCLEAR_DENSITY
    peaks = nuclear & (haematoxylin > ndimage.gaussian_filter(haematoxylin, PEAK_SIGMA))
    labels, count = ndimage.label(peaks)
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    areas = areas[areas >= SMALLEST_NUCLEUS]
    return NuclearMeasure(
        area_fraction=float(nuclear.mean()),
        density=1000.0 * len(areas) / nuclear.size,
        size_spread=float(areas.std() / areas.mean()) if len(areas) > 1 else 0.0,
    )


def severity_of(image: np.ndarray) -> float:
    """Estimate the severity of a tile: intercept + slope * sqrt(area fraction of nuclei).

    The area fraction alone orders tiles as well as a linear mix with density and size spread does,
    and blur moves it less; its root is nearer to a straight line in severity. For argument and
    errors see `measure`.

    Returns:
        About 0 for healthy tissue and 1 for sheets of nuclei. Not clipped, so that tiles beyond
        either end keep their order: a tile without nuclei is below 0.
    """
    intercept, slope = SEVERITY_FIT
    return intercept + slope * float(np.sqrt(measure(image).area_fraction))
