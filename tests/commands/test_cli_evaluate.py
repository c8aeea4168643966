"""`evaluate.py` as a user runs it: the table, the JSON, any input, any batch, any launcher."""

import json

import numpy as np
import pytest
from support.cli import call, draw_images, picture, snapshot, succeed

FAST = "--features small --bootstrap 5 --device cpu".split()
METRICS = ["kid", "precision", "recall", "fid", "sfid"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two folders of pictures, and the same as .npz."""
    place = tmp_path_factory.mktemp("sets")
    for name, count, seed in (("one", 12, 0), ("two", 10, 1)):
        folder = draw_images(place / name, count, seed=seed)
        tiles = [picture(file) for file in sorted(folder.glob("*.png"))]
        np.savez(place / f"{name}.npz", arr_0=np.stack(tiles))
    return place


def report(place, one, two, *flags):
    """The JSON of a comparison, with the table."""
    out = place / "report.json"
    result = succeed("evaluate", place / one, place / two, *FAST, "--out", out, *flags)
    found = json.loads(out.read_text(encoding="utf-8"))
    out.unlink()
    return found, result.out


def test_the_report_holds_values_intervals_numbers_and_the_label(place):
    found, table = report(place, "one", "two.npz")
    assert list(found["metrics"]) == METRICS
    for result in found["metrics"].values():
        low, high = result["interval"]
        assert low <= result["value"] <= high
    assert found["metrics"]["kid"].keys() == {"value", "std", "subsets", "size", "interval"}
    assert found["features"]["name"] == "small" and found["features"]["comparable"] is False
    assert found["reference"] == {"path": str(place / "one"), "n": 12, "statistics": []}
    assert found["samples"] == {"path": str(place / "two.npz"), "n": 10, "statistics": []}
    assert found["args"]["bootstrap"] == 5 and "torch" in found["versions"]
    assert "not comparable with Inception's" in table.splitlines()[0]
    assert f"reference: {place / 'one'}, N = 12" in table
    rows = [line.split()[0] for line in table.splitlines()[4:9]]
    assert rows == ["KID", "precision", "recall", "FID", "sFID"]
    for name, images in (("one", 12), ("two.npz", 10)):
        warning = f"{place / name}: {images} images, below 2048: FID and sFID are too large"
        assert f"warning: {warning}" in table and any(warning in w for w in found["warnings"])
    assert "the covariance of 256 features is singular" in table


def test_a_folder_and_an_npz_of_its_images_give_the_same(place):
    assert (
        report(place, "one", "two")[0]["metrics"]
        == report(place, "one.npz", "two.npz")[0]["metrics"]
    )


def test_a_set_against_itself_has_no_distance(place):
    found, table = report(place, "one", "one.npz", "--bootstrap", 0)
    values = {name: result["value"] for name, result in found["metrics"].items()}
    assert values["precision"] == values["recall"] == 1
    assert values["fid"] == pytest.approx(0, abs=1e-9) and abs(values["sfid"]) < 1e-9
    assert all(result["interval"] is None for result in found["metrics"].values())
    assert "95% interval" in table and "[" not in table


def test_results_do_not_depend_on_the_batch_size_but_on_the_seed(place):
    found = [report(place, "one", "two", "--batch_size", n)[0]["metrics"] for n in (1, 5, 32)]
    other = report(place, "one", "two", "--seed", 1)[0]["metrics"]
    for name in METRICS:
        for more in found[1:]:
            assert more[name]["value"] == pytest.approx(found[0][name]["value"], rel=1e-3)
            assert more[name]["interval"] == pytest.approx(found[0][name]["interval"], rel=1e-3)
        if name != "kid":
            assert other[name]["value"] == pytest.approx(found[0][name]["value"], rel=1e-3)
    assert other["fid"]["interval"] != found[-1]["fid"]["interval"]


def test_two_ranks_find_what_one_finds_and_one_of_them_reports(two_ranks, place, tmp_path):
    words = [place / "one", place / "two.npz", "--batch_size", 3, "--out", tmp_path / "report.json"]
    result = two_ranks.run("mpiexec", "evaluate", *words, *FAST)
    assert result.code == 0, result.err
    assert result.out.count("reference: ") == 1
    found = json.loads((tmp_path / "report.json").read_text())["metrics"]
    alone = report(place, "one", "two.npz", "--batch_size", 3)[0]["metrics"]
    for name in METRICS:
        assert found[name]["value"] == pytest.approx(alone[name]["value"], rel=1e-3)
        assert found[name]["interval"] == pytest.approx(alone[name]["interval"], rel=1e-3)


def test_statistics_of_a_reference_are_used_where_they_fit(place, tmp_path):
    def saved(name, dims, **arrays):
        np.savez(tmp_path / name, mu=np.zeros(dims), sigma=np.eye(dims), **arrays)
        return tmp_path / name

    images = np.load(place / "one.npz")["arr_0"]
    plain, _ = report(place, "one", "two")
    alone, table = report(place, saved("alone.npz", 256), "two")
    assert list(alone["metrics"]) == ["fid"] and "N = 0, FID by its statistics" in table
    assert alone["reference"]["statistics"] == ["fid"]
    assert any("alone; KID, precision and recall need images" in w for w in alone["warnings"])
    unfit = {"mu_s": np.zeros(9), "sigma_s": np.eye(9)}
    _, table = report(place, saved("half.npz", 256, **unfit), "two")
    assert "its sfid statistics are of 9 features, small has 448; left out" in table
    beside, _ = report(place, saved("beside.npz", 256, arr_0=images), "two")
    assert beside["metrics"]["fid"]["value"] == alone["metrics"]["fid"]["value"]
    assert beside["metrics"]["sfid"]["value"] == plain["metrics"]["sfid"]["value"]
    other, table = report(place, saved("other.npz", 2048, arr_0=images), "two")
    assert other["metrics"] == plain["metrics"] and other["reference"]["statistics"] == []
    assert "its fid statistics are of 2048 features, small has 256; taken from its images" in table
    refused = call("evaluate", saved("unfit.npz", 2048), place / "two", *FAST)
    assert refused.code == 2
    assert "expected arr_0, or statistics of small's 256 or 448 features, got" in refused.last


def test_image_size_brings_sets_of_different_sizes_together(place, tmp_path):
    big = draw_images(tmp_path / "big", 9, size=24)
    refused = call("evaluate", place / "one", big, *FAST)
    assert refused.code == 2 and "got 24x24; give --image_size" in refused.last
    found, _ = report(place, "one", big, "--image_size", 16)
    assert found["samples"]["n"] == 9


MISTAKES = [
    ("{place}/missing", "{place}/two", "REF: expected an .npz file or a folder of images, got"),
    ("{place}/one", "{broken}/empty", "SAMPLES: no image in {broken}/empty or below it"),
    ("{place}/one", "{broken}/few", "{broken}/few: expected 8 images or more, got 7"),
    ("{broken}/key.npz", "{place}/two", "key.npz: expected an array arr_0 of images, got images"),
    ("{broken}/pickle.npz", "{place}/two", "pickle.npz: expected an .npz with arr_0"),
    ("{broken}/objects.npz", "{place}/two", "objects.npz: expected arr_0 to be images"),
    ("{broken}/text.npz", "{place}/two", "text.npz: expected an .npz with arr_0"),
    ("{broken}/sizes", "{place}/two", "expected 16x16 pixels as of {broken}/sizes/tile0_000.png"),
]
FLAGS = [
    ("--features vgg", "--features: invalid choice: 'vgg' (choose from"),
    ("--bootstrap -1", "--bootstrap: expected a whole number of at least 0, got '-1'"),
    ("--batch_size 0", "--batch_size: expected a whole number of at least 1, got '0'"),
    ("--image_size -1", "--image_size: expected a whole number of at least 0, got '-1'"),
    ("--device nonsense", "--device: expected cpu, cuda, cuda:N or mps, got 'nonsense'"),
    ("--weights x.pth", "--weights: expected with --features inception, got it with small"),
    ("--out {place}", "--out: expected a file in a folder that can be written to, got '{place}'"),
    ("--out {place}/no/a.json", "--out: expected a file in a folder that can be written to"),
]


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    broken = tmp_path_factory.mktemp("broken")
    (broken / "empty").mkdir()
    draw_images(broken / "few", 7)
    draw_images(broken / "sizes", 8)
    (draw_images(broken / "more", 1, size=20) / "tile0_000.png").rename(broken / "sizes" / "z.png")
    (broken / "text.npz").write_text("no archive")
    np.array([{}], dtype=object).dump(broken / "pickle.npz")
    np.savez(broken / "objects.npz", arr_0=np.array([{}], dtype=object))
    np.savez(broken / "key.npz", images=np.zeros((9, 16, 16, 3), np.uint8))
    return broken


@pytest.mark.parametrize(("one", "two", "message"), MISTAKES)
def test_a_set_that_is_none_ends_in_one_line_and_writes_nothing(
    place, broken, tmp_path, one, two, message
):
    names = {"place": place, "broken": broken}
    refuse(names, [one, two, "--out", str(tmp_path / "report.json")], message)
    assert snapshot(tmp_path) == {}


@pytest.mark.parametrize(("flags", "message"), FLAGS)
def test_a_bad_flag_ends_in_one_line(place, flags, message):
    before = snapshot(place)
    refuse({"place": place}, ["{place}/one", "{place}/two", *flags.split()], message)
    assert snapshot(place) == before


def test_both_sets_must_be_named(place):
    refuse({"place": place}, ["{place}/one"], "the following arguments are required: SAMPLES")


def refuse(names, words, message):
    result = call("evaluate", *FAST, *[word.format(**names) for word in words])
    assert result.code == 2 and result.out == ""
    assert message.format(**names) in result.last
    assert len([line for line in result.err.splitlines() if "error: " in line]) == 1
    assert "Traceback" not in result.err and result.last.startswith("error: ")


def test_help_names_both_sets_and_every_default():
    result = call("evaluate", "--help")
    text = " ".join(result.out.split())
    for part in ("REF", "SAMPLES", "--bootstrap INT", "(default: 200)", "--features {auto,incep"):
        assert part in text
