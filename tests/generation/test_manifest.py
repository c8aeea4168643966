"""Damaged manifests: rows are dropped, or one line says what is wrong."""

import string

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from guided_diffusion.data import sealed_pictures
from guided_diffusion.errors import UserError
from guided_diffusion.generation import manifest
from guided_diffusion.generation.export import Exporter
from guided_diffusion.translation.sequences import Recipe
from guided_diffusion.translation.settings import DepthSettings

AMOUNT, COUNT = 2, 3


@pytest.fixture(scope="module")
def exporter(tmp_path_factory):
    """An exporter whose folder has any picture that a manifest may name."""
    folder, recipe = tmp_path_factory.mktemp("t"), Recipe(DepthSettings(AMOUNT))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sealed_pictures, "is_whole", lambda path, text, plain: True)
        yield Exporter(folder, ("a", "b"), recipe, COUNT, save_npy=False)


def whole(exporter):
    """The bytes of a manifest of `COUNT` sequences."""
    rows = []
    for index in range(COUNT):
        for step in range(AMOUNT + 1):
            row = dict.fromkeys(exporter.columns, "x")
            row |= {"file_name": manifest.PICTURE.format(sequence=index, step=step)}
            row |= {"sequence": f"{index:05d}", "step": str(step), "depth": str(7 * step)}
            rows.append(row | {"label_a": "0.5", "label_b": "0.5", "source_file": 'a "tile", b'})
    return manifest.as_text(exporter.columns, rows, header=True)


BAD_ROWS = {
    "letters for the sequence": lambda rows: rows[2].replace(b"00000,", b"abc,"),
    "letters for the step": lambda rows: rows[2].replace(b",1,", b",one,"),
    "a negative step": lambda rows: rows[2].replace(b",1,", b",-1,"),
    "an endless number": lambda rows: rows[2].replace(b"00000,", b"9" * 6000 + b","),
    "a huge field": lambda rows: rows[2].replace(b"00000,", b"x" * 200_000 + b","),
    "a NUL": lambda rows: rows[2].replace(b"images/00000", b"ima\0ges/00000"),
    "no UTF-8": lambda rows: rows[2].replace(b"images/00000", b"ima\xff\xfeges/00000"),
    "a path outside": lambda rows: rows[2].replace(b"images/00000", b"../../00000"),
    "a column too many": lambda rows: rows[2].replace(b",1,", b",1,1,"),
    "a column too few": lambda rows: rows[2].replace(b",1,", b","),
    "a quote that stays open": lambda rows: b'"' + rows[2],
    "nothing": lambda rows: b"",
    "an empty line": lambda rows: b"\r\n",
    "a cut row": lambda rows: rows[2][:20],
}


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_a_damaged_row_costs_its_sequence_alone(exporter, kind):
    rows = whole(exporter).splitlines(keepends=True)
    assert len(rows) == 1 + COUNT * (AMOUNT + 1)
    rows[2] = BAD_ROWS[kind](rows)
    (exporter.folder / "manifest.csv").write_bytes(b"".join(rows))
    lost = {0, 1, 2} if kind == "a quote that stays open" else {0}
    assert exporter.finished() == {0, 1, 2} - lost


def test_a_whole_manifest_has_all_sequences(exporter):
    (exporter.folder / "manifest.csv").write_bytes(whole(exporter))
    assert exporter.finished() == {0, 1, 2}


def read(exporter, content):
    """Read a manifest and a part of these bytes; a mistake is a line of text."""
    for name in ("manifest.csv", "manifest.part001.csv"):
        (exporter.folder / name).write_bytes(content)
    try:
        found = exporter.finished()
        manifest.read_any(exporter.folder / "manifest.csv", ["sequence", "step", "file_name"])
    except UserError as error:
        assert str(error).isprintable() and "manifest" in str(error) and len(str(error)) < 1000
        return None
    for sequence in exporter._finished_rows().values():
        for row in sequence:
            assert row["file_name"].startswith(f"images/{int(row['sequence']):05d}/")
            assert int(row["depth"]) >= 0
    return found


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_manifest_with_any_bytes_replaced_is_read_or_refused_in_one_line(exporter, data):
    content = bytearray(whole(exporter))
    for _ in range(data.draw(st.integers(1, 6))):
        start = data.draw(st.integers(0, len(content)))
        end = start + data.draw(st.integers(0, 30))
        content[start:end] = data.draw(st.binary(max_size=12))
    (exporter.folder / "manifest.part001.csv").unlink(missing_ok=True)
    read(exporter, bytes(content))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400) | st.text(string.printable, max_size=400).map(str.encode))
@example(b"")
@example(b"\r\n")
@example(b'"')
@example(b'"\n' * 1000)
def test_any_bytes_as_a_manifest_are_read_or_refused_in_one_line(exporter, content):
    assert read(exporter, content) in (None, set())


def test_many_lines_within_quotes_are_read_at_once(exporter):
    content = b'"' + b"x\n" * 1_000_000
    assert read(exporter, content) in (None, set())


def test_a_folder_in_place_of_a_manifest_is_named(tmp_path):
    (tmp_path / "manifest.csv").mkdir()
    with pytest.raises(UserError, match="expected a file, got a folder"):
        manifest.read_any(tmp_path / "manifest.csv", ["step"])


def test_a_huge_number_of_a_step_takes_no_memory():
    row = {"sequence": "0", "step": "999999999", "depth": "1"}
    row["file_name"] = manifest.PICTURE.format(sequence=0, step=999999999)
    assert manifest.complete_sequences([row], amount=999999999) == {}
