"""The embedded demo: it runs with no flag at all, and its sequences grow more severe."""

import csv

import numpy as np
import pytest
from PIL import Image
from support.cli import succeed, working_directory

from guided_diffusion.data.drawn_tissue import severity_of
from guided_diffusion.errors import UserError
from guided_diffusion.generation import demo
from guided_diffusion.generation.settings import SequenceSettings
from guided_diffusion.translation.settings import BatchSettings, DepthSettings

SEQUENCES = "frequency_generating_m_samples"


def test_the_demo_is_small():
    checkpoints = [path.stat().st_size for path in demo.FOLDER.rglob("*.pt")]
    assert len(checkpoints) == 2 and sum(checkpoints) < 12e6


def test_the_default_makes_two_sequences_of_rising_severity(tmp_path):
    with working_directory(tmp_path):
        succeed(SEQUENCES, "--timestep_respacing", "ddim20", "--amount", 2)
    (folder,) = tmp_path.glob("results/gland_to_carcinoma_*/translation_gland_carcinoma")
    with open(folder / "manifest.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 3 and {row["source"] for row in rows} == {"gland"}
    found = [severity_of(np.asarray(Image.open(folder / row["file_name"]))) for row in rows]
    for sequence in (found[:3], found[3:]):
        assert sequence[0] + 0.05 < sequence[1] <= sequence[2] + 0.05


def test_the_way_back_starts_from_drawn_carcinoma_and_grows_less_severe(tmp_path):
    flags = "--bidirectional True --num_images 1 --timestep_respacing ddim20 --amount 2".split()
    succeed(SEQUENCES, *flags, "--out_dir", tmp_path)
    folder = tmp_path / "translation_carcinoma_gland"
    pictures = sorted(folder.glob("images/*/*.png"))
    found = [severity_of(np.asarray(Image.open(path))) for path in pictures]
    assert len(found) == 3 and found[0] > found[2] + 0.05
    assert (tmp_path / "report.html").is_file()


@pytest.mark.parametrize("missing", demo.PLACES)
def test_a_part_of_models_and_data_is_not_enough(missing):
    named = {name: "" if name == missing else "place" for name in demo.PLACES}
    with pytest.raises(UserError, match=f"{missing}: expected together with --"):
        demo.fill_in(SequenceSettings(**named))


def test_given_flags_stay():
    given = SequenceSettings(source="polyp"), DepthSettings(amount=3, depth_policy="uniform")
    asked, depths, batches = demo.fill_in(*given, BatchSettings())
    assert (asked.source, asked.target, asked.num_images) == ("polyp", "carcinoma", 2)
    assert (depths.amount, depths.depth_policy, batches.batch_size) == (3, "uniform", 2)
    assert asked.data_dir == str(demo.FOLDER / "source") and given[0].data_dir == ""


def test_nothing_changes_where_all_is_named():
    given = SequenceSettings(**dict.fromkeys(demo.PLACES, "place")), DepthSettings()
    assert demo.fill_in(*given) == given
