"""`frequency_generating_m_samples.py` in both directions and between several stages."""

import html.parser
import json
import shutil

import pytest
from support.cli import (
    DRAWING,
    SEQUENCES,
    Killed,
    call,
    draw_images,
    grey_levels_apart,
    picture,
    read_csv,
    snapshot,
    succeed,
)

from guided_diffusion.data import image_files
from guided_diffusion.generation import export
from guided_diffusion.models import domains
from guided_diffusion.translation import encode_decode

AMOUNT = 3
ENDS = (("0", "1", 3), ("1", "0", 2))  # source, target, sequences


@pytest.fixture(scope="module")
def flags(runs, tmp_path_factory):
    """The flags of a run there (three images) and back (two)."""
    images = draw_images(tmp_path_factory.mktemp("back"), 2, seed=5)
    return [*runs.sequences, "--bidirectional", "True", "--target_data_dir", str(images)]


@pytest.fixture(scope="module")
def made(flags, tmp_path_factory):
    """A run of both directions; to be left as it is."""
    folder = tmp_path_factory.mktemp("both") / "run"
    succeed(SEQUENCES, *flags, "--out_dir", folder)
    return folder


@pytest.fixture(scope="module")
def stages(runs, tmp_path_factory):
    """The flags of three stages, with a folder of one image for each."""
    place = tmp_path_factory.mktemp("stages")
    for seed, name in enumerate("abc"):
        draw_images(place / name, 1, seed=seed)
    models = f"a={runs.source},b={runs.target},c={runs.source}"
    return ["--stages", models, "--data_dir", place, "--amount", 2, *DRAWING]


@pytest.fixture
def saved(monkeypatch):
    """(source, index) of the sequences that are saved from now on."""
    found = []
    save = export.Exporter.save

    def noting(self, sequence):
        save(self, sequence)
        found.append((self.names[0], sequence.index))

    monkeypatch.setattr(export.Exporter, "save", noting)
    return found


def folders(run):
    return sorted(path.name for path in run.glob("translation_*"))


def test_each_direction_is_what_a_run_of_its_own_makes(runs, flags, made, tmp_path):
    succeed(SEQUENCES, *runs.sequences, "--out_dir", tmp_path / "there")
    there, both = tmp_path / "there" / "translation_0_1", snapshot(made / "translation_0_1")
    assert snapshot(there) == both
    swapped = [
        "--source_model",
        runs.target,
        "--target_model",
        runs.source,
        "--source",
        "1",
        "--target",
        "0",
        "--data_dir",
        flags[-1],
    ]
    succeed(SEQUENCES, *runs.sequences, *swapped, "--out_dir", tmp_path / "back")
    back = tmp_path / "back" / "translation_1_0"
    for name in ("target.npy", "diffway.npy", "source.npy"):
        assert (back / name).read_bytes() == (made / "translation_1_0" / name).read_bytes()
    assert {p.name for p in (tmp_path / "there").iterdir()}.isdisjoint(
        {"manifest.csv", "report.html", "contact_sheet.png"}
    )


def test_the_merged_manifest_is_the_parts_with_places_from_the_run_folder(made):
    merged = read_csv(made / "manifest.csv")
    assert folders(made) == ["translation_0_1", "translation_1_0"]
    parts = []
    for source, target, count in ENDS:
        place = f"translation_{source}_{target}"
        own = read_csv(made / place / "manifest.csv")
        assert len(own) == count * (AMOUNT + 1)
        parts += [row | {"file_name": f"{place}/{row['file_name']}"} for row in own]
    assert merged == parts
    assert list(merged[0]) == list(parts[0]) and list(merged[0])[0] == "file_name"
    assert all((made / row["file_name"]).is_file() for row in merged)


def test_both_directions_label_the_same_two_columns_and_mirror_each_other(made):
    rows = read_csv(made / "manifest.csv")
    assert [name for name in rows[0] if name.startswith("label_")] == ["label_0", "label_1"]
    for row in rows:
        share = int(row["step"]) / AMOUNT
        expected = (1 - share, share) if row["source"] == "0" else (share, 1 - share)
        assert (float(row["label_0"]), float(row["label_1"])) == pytest.approx(expected)
        assert float(row["label_0"]) + float(row["label_1"]) == pytest.approx(1, abs=1e-12)


class Reader(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.places, self.headings, self.tag = [], [], ""

    def handle_starttag(self, tag, attributes):
        self.tag = tag
        self.places += [v for k, v in attributes if k in ("src", "href")]

    def handle_data(self, data):
        if self.tag == "h2" and data.strip():
            self.headings.append(data)


def test_the_page_shows_every_picture_of_both_directions_and_nothing_from_elsewhere(made):
    page = Reader()
    page.feed((made / "report.html").read_text())
    assert page.headings == ["0 to 1", "1 to 0"]
    assert page.places == [row["file_name"] for row in read_csv(made / "manifest.csv")]
    assert (made / "contact_sheet.png").is_file()
    assert "report.html" in (made / "log.txt").read_text()


def test_every_source_image_is_opened_once(flags, tmp_path, monkeypatch):
    opened, original = [], image_files.open_image
    monkeypatch.setattr(
        image_files, "open_image", lambda file, *rest: opened.append(file) or original(file, *rest)
    )
    succeed(SEQUENCES, *flags, "--out_dir", tmp_path / "run")
    assert len(opened) == len(set(opened)) == sum(count for *_, count in ENDS)


def test_models_and_their_digests_are_read_once(flags, tmp_path, monkeypatch):
    read = []
    load = domains.read_state
    monkeypatch.setattr(domains, "read_state", lambda path: read.append(path) or load(path))
    succeed(SEQUENCES, *flags, "--num_images", 1, "--out_dir", tmp_path)
    assert len(read) == 2 and len(set(read)) == 2


def test_the_same_command_again_makes_no_forward_and_touches_no_file(
    flags, made, tmp_path, monkeypatch
):
    shutil.copytree(made, tmp_path / "run")
    monkeypatch.setattr(encode_decode.Predictor, "_predict", None)
    # args.json has the place of the copy
    logs = ("log.txt", "progress.csv", "progress.jsonl", "args.json")

    def times():
        files = (path for path in (tmp_path / "run").rglob("*") if path.is_file())
        return {path: path.stat().st_mtime_ns for path in files if path.name not in logs}

    before = times()
    succeed(SEQUENCES, *flags, "--out_dir", tmp_path / "run")
    assert times() == before


def test_a_run_killed_on_the_way_back_goes_on_there(flags, made, tmp_path, monkeypatch):
    save, done = export.Exporter.save, []

    def dies(self, sequence):
        if self.names[0] == "1" and sequence.index == 1:
            raise Killed
        save(self, sequence)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(export.Exporter, "save", dies)
        call(SEQUENCES, *flags, "--out_dir", tmp_path)
    assert not (tmp_path / "manifest.csv").exists()

    def noting(self, sequence):
        done.append((self.names[0], sequence.index))
        save(self, sequence)

    monkeypatch.setattr(export.Exporter, "save", noting)
    succeed(SEQUENCES, *flags, "--out_dir", tmp_path)
    assert done == [("1", 1)]
    for name in (*folders(made), "manifest.csv", "report.html", "contact_sheet.png"):
        ours, theirs = tmp_path / name, made / name
        assert (
            snapshot(ours) == snapshot(theirs)
            if ours.is_dir()
            else ours.read_bytes() == theirs.read_bytes()
        )


def test_a_picture_missing_on_the_way_back_is_made_again_alone(flags, made, tmp_path, saved):
    shutil.copytree(made, tmp_path / "run")
    (tmp_path / "run" / "translation_1_0" / "images" / "00000" / "02.png").unlink()
    succeed(SEQUENCES, *flags, "--out_dir", tmp_path / "run")
    assert saved == [("1", 0)]


@pytest.mark.parametrize("launcher", ["mpiexec", "torchrun"])
def test_two_ranks_make_what_one_process_does(two_ranks, launcher, flags, made, tmp_path):
    result = two_ranks.run(launcher, SEQUENCES, *flags, "--out_dir", tmp_path)
    assert result.code == 0, result.err
    rows = read_csv(made / "manifest.csv")
    assert read_csv(tmp_path / "manifest.csv") == rows
    for row in rows:
        pictures = [picture(place / row["file_name"]) for place in (tmp_path, made)]
        assert grey_levels_apart(*pictures) <= 1
    assert not list(tmp_path.rglob("manifest.part*"))


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ([], "a_b b_c"),
        (["--bidirectional", "True"], "a_b b_a b_c c_b"),
        (["--pairs", "all"], "a_b a_c b_c"),
    ],
)
def test_stages_give_their_pairs_and_labels_over_all_of_them(stages, tmp_path, more, expected):
    succeed(SEQUENCES, *stages, *more, "--out_dir", tmp_path)
    assert folders(tmp_path) == [f"translation_{pair}" for pair in expected.split()]
    rows = read_csv(tmp_path / "manifest.csv")
    assert len(rows) == 3 * len(expected.split())
    for row in rows:
        share = int(row["step"]) / 2
        wanted = dict.fromkeys("abc", 0.0) | {row["source"]: 1 - share, row["target"]: share}
        assert {name: float(row[f"label_{name}"]) for name in "abc"} == wanted
        assert sum(wanted.values()) == 1


def test_a_run_of_stages_is_continued_with_the_same_names_and_weights_only(
    runs, stages, tmp_path, saved
):
    succeed(SEQUENCES, *stages, "--out_dir", tmp_path / "run")
    saved.clear()
    again = f"a={runs.source}/../source,b={runs.target},c={runs.source}"
    (tmp_path / "run" / "translation_b_c" / "images" / "00000" / "01.png").unlink()
    succeed(SEQUENCES, *stages, "--stages", again, "--out_dir", tmp_path / "run")
    assert saved == [("b", 0)]
    for text, message in (
        (f"a={runs.source},b={runs.target}", "names in --stages were 'a_to_b_to_c', are 'a_to_b'"),
        (f"a={runs.target},b={runs.target},c={runs.source}", "weights of stage a have changed"),
    ):
        result = call(SEQUENCES, *stages, "--stages", text, "--out_dir", tmp_path / "run")
        assert result.code == 2 and message in result.last


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--target_data_dir {images}/no", "--target_data_dir: expected a folder of images, got"),
        ("--target_data_dir=", "--bidirectional: expected together with --target_data_dir"),
        ("--pairs all", "--pairs: expected together with --stages"),
        ("--source_model {images}/no", "--source_model: "),
        ("--target_data_dir {broken}", "broken.png: expected a readable image"),
        ("--bidirectional False", "--target_data_dir: expected together with --bidirectional"),
        ("--stages a={source},b={target}", "--source_model: expected without --stages"),
    ],
)
def test_mistakes_of_the_way_back_are_told_before_the_first_forward(
    runs, flags, tmp_path, monkeypatch, more, message
):
    monkeypatch.setattr(encode_decode.Predictor, "_predict", None)
    broken = draw_images(tmp_path / "broken", 1)
    (broken / "broken.png").write_text("no picture")
    more = more.format(images=runs.images, broken=broken, source=runs.source, target=runs.target)
    result = call(SEQUENCES, *flags, *more.split(), "--out_dir", tmp_path / "out")
    assert result.code == 2 and message in result.last
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a={source}", "--stages: expected NAME=RUN,NAME=RUN,... of two or more"),
        ("a={source},a={target}", "--stages: expected NAME=RUN,NAME=RUN,... of two or more"),
        ("a={source},b", "--stages: expected NAME=RUN,NAME=RUN,... of two or more"),
        ("a={source},b/c={target}", "--stages: expected a name of letters"),
        ("a={source}, b={source}/no", "/no: expected a checkpoint or a training run folder"),
        ("a={source},a_b={target},b={source},b_a={target}", "--stages: expected names that make"),
        ("d={source},a={target}", "--data_dir, stage d: expected a folder of images, got"),
    ],
)
def test_mistakes_of_stages_are_told_before_the_first_forward(
    runs, stages, tmp_path, text, message
):
    text = text.format(source=runs.source, target=runs.target)
    pairs = ["--stages", text, "--pairs", "all", "--bidirectional", "True"]
    result = call(SEQUENCES, *stages, *pairs, "--out_dir", tmp_path / "out")
    assert result.code == 2 and message in result.last
    assert not (tmp_path / "out").exists()


def test_stages_and_two_ends_do_not_share_a_run_folder(runs, tmp_path):
    for name in "01":
        draw_images(tmp_path / "data" / name, 1)
    common = ["--data_dir", tmp_path / "data", "--amount", 1, *DRAWING, "--out_dir", tmp_path / "r"]
    ends = ["--source_model", runs.source, "--target_model", runs.target]
    succeed(SEQUENCES, *ends, *common)
    result = call(SEQUENCES, "--stages", f"0={runs.target},1={runs.source}", *common)
    assert result.code == 2 and "the names in --stages were '', are '0_to_1'" in result.last


def test_a_run_folder_older_than_a_flag_holds_a_run_at_its_default(runs, flags, tmp_path):
    succeed(SEQUENCES, *runs.sequences, "--out_dir", tmp_path)
    record = json.loads((tmp_path / "args.json").read_text())
    new = ("bidirectional", "stages.names", "source_model.attention_kind")
    assert all(record["args"].pop(name) in (False, "", "standard") for name in new)
    (tmp_path / "args.json").write_text(json.dumps(record))
    result = call(SEQUENCES, *flags, "--out_dir", tmp_path)
    assert result.code == 2 and "--bidirectional was False, is True" in result.last
    succeed(SEQUENCES, *runs.sequences, "--out_dir", tmp_path)


def test_severity_is_measured_in_the_folder_of_one_direction(made):
    refused = call("severity_along_sequences", made)
    assert refused.code == 2 and "one direction, such as translation_0_1 in it" in refused.last


def test_severity_is_measured_along_a_manifest_of_sequences_alone(tmp_path):
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("file_name,label\na.png,1\n")
    refused = call("severity_along_sequences", tmp_path)
    assert refused.code == 2 and "expected the columns file_name, " in refused.last
    cut_off = "file_name,sequence,step,depth,source,target\na.png,00000,1,9,a,b\na.png,000"
    manifest.write_text(cut_off)
    refused = call("severity_along_sequences", tmp_path)
    assert refused.code == 2 and "expected whole sequences, found none" in refused.last
