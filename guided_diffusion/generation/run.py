"""Make sequences in one or several directions, and the files that all directions share.

A direction goes from one stage to another and has a folder of its own, complete in itself. Several
directions also have, at the top of the run folder, one manifest, one contact sheet and one page.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..data.image_files import log_if_fewer
from ..data.image_formats import open_images
from ..data.image_source import ImageSource
from ..errors import blame
from ..models.domains import Domain
from ..models.reading_of_training import reading_for
from ..runtime import atomic_files, dist_util, progress_bars, work_sharing
from ..translation.sequences import ImageSequence, Recipe, Sequences
from . import manifest, report
from .export import Exporter
from .manifest import Row
from .plan import Plan, folder_name
from .settings import SequenceSettings


@dataclass
class Direction:
    """The sequences from one stage to another, and the writer of this rank's files."""

    sequences: Sequences
    exporter: Exporter

    def prepare(self) -> list[int]:
        """Tidy up what an earlier run left (rank 0 only), and return what is left to make."""
        images = self.sequences.images
        names = [images.name(index) for index in range(len(images))]
        finished = self.exporter.prepare(names, images.tile)
        return [index for index in range(len(images)) if index not in finished]


class Generation:
    """All sequences of a run; iterate over (direction, sequence) on every rank.

    `len` counts the sequences that are left to make, for all ranks together.

    Args:
        plan: stages of the run, and pairs of stages.
        domains: model of each stage, by name.
        recipe: depths, walks, batches and arithmetic.
        asked: images to use and files to write.
        out_dir: run folder; nothing is written there before `rounds`.

    Raises:
        UserError: if models, recipe and images cannot work together.
    """

    def __init__(
        self,
        plan: Plan,
        domains: Mapping[str, Domain],
        recipe: Recipe,
        asked: SequenceSettings,
        out_dir: Path,
    ) -> None:
        self.out_dir = out_dir
        self.images: dict[str, ImageSource] = {}  # by stage that sequences start from
        for stage in {source.name: source for source, _ in plan.pairs}.values():
            network = domains[stage.name].network
            reading = reading_for(domains[stage.name], asked)
            with blame(stage.flag):
                size, channels = network.image_size, network.in_channels
                images = open_images(stage.data_dir, size, channels, reading=reading)
            log_if_fewer(asked.num_images, len(images), stage.data_dir)
            self.images[stage.name] = images.first(asked.num_images)
        self.directions = []
        watch = progress_bars.inner_progress
        for names in ((source.name, target.name) for source, target in plan.pairs):
            source, target = (domains[name] for name in names)
            images = self.images[names[0]]
            sequences = Sequences(source, target, images, recipe, watch=watch)
            exporter = Exporter(
                out_dir / folder_name(*names),
                names,
                recipe,
                len(images),
                save_npy=asked.save_npy,
                save_latents=asked.save_latents,
                part=dist_util.rank(),
                provenance={"source_model": str(source.origin), "target_model": str(target.origin)},
                stages=[stage.name for stage in plan.stages],
            )
            self.directions.append(Direction(sequences, exporter))

    @property
    def count(self) -> int:
        """Number of all sequences, made or not."""
        return sum(len(direction.sequences.images) for direction in self.directions)

    def open_every_image(self) -> None:
        """Open each source image on one rank; all ranks raise a `UserError` if that fails."""
        for images in self.images.values():
            images.check()

    def rounds(self) -> Iterator[int]:
        """Yield the number of sequences to make, of an earlier run or lost during this one.

        Every rank iterates over the generation before it asks for the next round.

        Raises:
            IncompleteError: if sequences are lost again and again.
        """

        def missing() -> list[tuple[int, int]]:
            left = [direction.prepare() for direction in self.directions]
            return [(place, index) for place, todo in enumerate(left) for index in todo]

        def name(item: tuple[int, int]) -> str:
            return f"{self.directions[item[0]].exporter.folder.name}/images/{item[1]:05d}"

        for left in work_sharing.rounds(missing, self.out_dir, name):
            for place, direction in enumerate(self.directions):
                direction.sequences.todo = [index for at, index in left if at == place]
            yield len(left)

    def __len__(self) -> int:
        return sum(len(direction.sequences) for direction in self.directions)

    def __iter__(self) -> Iterator[tuple[Direction, ImageSequence]]:
        for direction in self.directions:
            for sequence in direction.sequences:
                yield direction, sequence

    def names_of(self, direction: Direction) -> dict[str, str]:
        """Return {"source": name, "target": name} of a direction; {} if it is the only one."""
        if len(self.directions) == 1:
            return {}
        return dict(zip(("source", "target"), direction.exporter.names, strict=True))

    def finish(self) -> tuple[list[Row], Path]:
        """Give the arrays their names and draw the contact sheets (rank 0 only).

        Returns:
            all rows, and the path of the picture or page to look at.
        """
        rows = []
        for direction in self.directions:
            exporter = direction.exporter
            own = exporter.finish()
            shown = report.save_contact_sheet(exporter.folder, own)
            place = exporter.folder.relative_to(self.out_dir).as_posix()
            rows += [row | {"file_name": f"{place}/{row['file_name']}"} for row in own]
        if len(self.directions) > 1:
            manifest.write(self.out_dir / "manifest.csv", exporter.columns, rows)
            report.save_contact_sheet(self.out_dir, rows)
            shown = self.out_dir / "report.html"
            atomic_files.write_if_changed(shown, report.page(rows).encode())
        return rows, shown
