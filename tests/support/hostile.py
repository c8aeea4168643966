"""Broken input for every command, made from whole input by a generator of random numbers.

A case is a command whose flags are right, and one thing that is not: a file of it that was changed,
a flag or a variable of the environment with nonsense in it. Some changes are harmless.
"""

import csv
import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from support import children
from support.cli import (
    SEQUENCES,
    TINY_CLASSIFIER,
    TINY_MODEL,
    TRAINING,
    Result,
    Runs,
    load_script,
    succeed,
    train_two_runs,
    working_directory,
)
from support.payload import Payload

from guided_diffusion.data import plots
from guided_diffusion.errors import require

TINY_SR = (
    "--large_size 16 --small_size 8 --num_channels 32 --num_res_blocks 1 --channel_mult 1,2 "
    "--attention_resolutions 8 --num_heads 2 --diffusion_steps 40"
).split()
POINTS = (
    "--num_channels 32 --num_res_blocks 1 --dropout 0 --diffusion_steps 40 --batch_size 16 "
    "--max_steps 2 --save_interval 2 --device cpu"
).split()
ONE = "--max_steps 1 --sample_interval 0".split()
FEW = "--num_samples 2 --batch_size 2 --timestep_respacing 2 --device cpu".split()
PAIR = "--source_model {model} --target_model {target} --data_dir {images}".split()
# Where commands of points look for a run below a folder of runs.
MOVING = "--model_path {points} --num_samples 4 --timestep_respacing 2 --device cpu".split()

# Flags of each command with which it ends well and soon; {names} are paths of `World`.
USUAL: dict[str, list[str]] = {
    "image_train": [*TINY_MODEL, *TRAINING, *ONE, "--data_dir", "{images}"],
    "super_res_train": [*TINY_SR, *TRAINING, *ONE, "--data_dir", "{images}"],
    "classifier_train": [*TINY_CLASSIFIER, "--iterations", "1", "--data_dir", "{images}"],
    "synthetic_train": [*POINTS, "--task", "0"],
    "image_sample": ["--model_path", "{model}", *FEW],
    "classifier_sample": ["--model_path", "{model}", "--classifier_path", "{classifier}", *FEW],
    "super_res_sample": ["--model_path", "{upsampler}", "--base_samples", "{small}", *FEW],
    "image_nll": ["--model_path", "{model}", "--data_dir", "{images}", *FEW],
    SEQUENCES: [*PAIR, *"--num_images 1 --amount 2 --timestep_respacing 4 --device cpu".split()],
    "imagenet_translation": [
        *"--model_path {conditional} --classifier_path {classifier} --val_dir {images}".split(),
        *"--source 0 --target 1 --timestep_respacing 2 --num_images 1 --device cpu".split(),
    ],
    "compare_depths": [*PAIR, *"--num_images 1 --amount 2 --steps 3 --device cpu".split()],
    "convert_checkpoint": ["--model_path", "{model}", "--output", "{out}/converted.pt"],
    "evaluate": ["{small}", "{small}", "--features", "small", "--device", "cpu"],
    "severity_along_sequences": ["{sequences}"],
    "make_tissue": "--image_size 16 --num_images 2".split(),
    "synthetic_sample": [*MOVING, "--task", "0"],
    "synthetic_translation": [*MOVING, *"--source 0 --target 0".split()],
    "synthetic_cycle": [*MOVING, *"--source 0 --target 0".split()],
    # What takes long is refused at the end of the checks, so that only mistakes are tried.
    "ablate_attention": ["--data_dir", "{images}", "--device", "cpu"],
    "benchmark": ["quality", *PAIR, "--amount", "0"],
}
PLACES = ("evaluate", "convert_checkpoint", "severity_along_sequences", "benchmark")  # no --out_dir
RESUMED = ("image_train", "classifier_train", SEQUENCES, "image_sample", "synthetic_train")

ROLES = "conditional classifier upsampler sequences points small".split()

NONSENSE = (
    ["", " ", "-1", "0", "0.5", "x", "nan", "inf", "-inf", "1e400", "1,2,x", ",", "None", "[]"]
    + ["True", "../..", "/dev/null", "/proc/self/mem", "~", "é\u202e\U0001f600", "a" * 5000]
    + ["9" * 30, "-" + "9" * 30, "1e-400", "0x10", "1_0", "%s%n", "$(id)", "a\nb", "\ud800"]
)
VALUES: list[Any] = [
    *(None, True, False, "False", "", "x", -1, 0, 1, 3, 0.5, 1e308, float("nan"), float("inf")),
    *(10**30, -(10**30), [], [1], {}, {"a": 1}, "../..", "é\ud800", "16,8", "a" * 3000, [[[]]]),
]
# With these a small number or none is a long run, and that is what was asked for.
LONG = "max_steps lr_anneal_steps num_samples num_images iterations diffusion_steps steps".split()
VARIABLES = (
    "RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE PMI_RANK PMI_SIZE OMPI_COMM_WORLD_RANK "
    "OMPI_COMM_WORLD_SIZE SLURM_PROCID SLURM_NTASKS SLURM_STEP_ID SLURM_LOCALID "
    "SLURM_STEP_NUM_TASKS OPENAI_LOG_FORMAT OPENAI_LOGDIR GUIDED_DIFFUSION_FAULT"
).split()


@dataclass
class World:
    """Whole input of every kind, by name."""

    paths: dict[str, Path]

    @classmethod
    def of(cls, runs: Runs) -> "World":
        """Return a small world, whose other paths lead nowhere."""
        paths = {name: runs.images.parent / f"no_{name}" for name in ROLES}
        own = {"model": runs.source, "target": runs.target, "images": runs.images}
        return cls({**paths, **own})

    @classmethod
    def whole(cls, base: Path) -> "World":
        """Make a world in a folder."""
        runs = train_two_runs(base)
        world = cls.of(runs)
        made = {
            "conditional": ("image_train", *runs.training, *ONE, "--class_cond", "True"),
            "classifier": ("classifier_train", *TINY_CLASSIFIER, "--data_dir", runs.images),
            "upsampler": ("super_res_train", *TINY_SR, *runs.training[len(TINY_MODEL) :], *ONE),
            "sequences": (SEQUENCES, *runs.sequences),
        }
        for name, (command, *flags) in made.items():
            succeed(command, *flags, "--out_dir", base / name)
            world.paths[name] = base / name
        world.paths["sequences"] = next((base / "sequences").glob("translation_*"))
        with working_directory(base):
            succeed("synthetic_train", *POINTS, "--task", 0)
        world.paths["points"] = next(base.rglob("log2D0")).parent
        small = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
        np.savez(base / "small.npz", arr_0=small)
        world.paths["small"] = base / "small.npz"
        for name in USUAL:  # the children need not import what the commands need
            load_script(name)
        require("scipy.stats", "metrics")
        plots.figure_class()
        return world


@dataclass
class Case:
    """A command line, what is broken about it, and variables of the environment."""

    command: str
    argv: list[str]
    broken: str
    variables: dict[str, str] = field(default_factory=dict)
    place: Path = Path()

    def run(self) -> Result:
        """Run the command in a child."""

        def prepare() -> None:
            os.chdir(self.place)
            os.environ.update(self.variables)

        return children.run(self.command, *self.argv, before=prepare)

    def fault(self, result: Result) -> str:
        """Return what is wrong with how the command ended; empty: nothing."""
        if result.code < 0:
            return f"ended by signal {-result.code} (14: a hang)"
        if "Traceback" in result.err or result.code not in (0, 2, 3, 4, 130):
            return f"code {result.code}: {' | '.join(result.err.strip().splitlines()[-3:])}"
        lines = [line for line in result.err.splitlines() if "error: " in line]
        if result.code == 2 and len(lines) != 1:
            return f"code 2 with {len(lines)} lines of errors: {result.err[-300:]!r}"
        if (self.place / "payload").exists():
            return "code of a file was run"
        return ""

    def __str__(self) -> str:
        return f"{self.command}: {self.broken}: {' '.join(map(repr, self.argv))[:300]}"


class Maker:
    """Makes cases; case i depends on i alone."""

    def __init__(self, world: World, base: Path) -> None:
        self.world, self.base = world, base

    def make(self, index: int, kind: str = "") -> Case:
        """Return case number `index`, of a kind or of each in turn."""
        rng = np.random.default_rng([14, index])
        place = self.base / f"case{index}"
        (place / "out").mkdir(parents=True)
        kinds = list(KINDS)
        return KINDS[kind or kinds[index % len(kinds)]](self, rng, place)

    def line(self, name: str, place: Path, **changed: Path) -> list[str]:
        """Return the flags of a command, with some paths changed."""
        paths = {**self.world.paths, "out": place / "out", **changed}
        argv = [
            str(word).format(**paths) if "{" in str(word) else str(word) for word in USUAL[name]
        ]
        return argv if name in PLACES else [*argv, "--out_dir", str(place / "out")]

    def commands_of(self, *roles: str) -> list[tuple[str, str]]:
        """Return pairs of a role and a command that reads it."""
        return [(r, n) for r in roles for n, words in USUAL.items() if f"{{{r}}}" in words]

    def with_copy(self, rng: Any, place: Path, pairs: list, change: Callable[[Path], str]) -> Case:
        """Return a case whose input in one role is a copy that was changed."""
        role, name = pick(rng, pairs)
        copy, before = place / role, self.world.paths[role]
        if before.is_dir():
            shutil.copytree(before, copy)
        else:
            shutil.copy(before, copy := copy.with_suffix(before.suffix))
        what = change(copy)
        return Case(name, self.line(name, place, **{role: copy}), f"{role}, {what}", {}, place)


def pick(rng: Any, values: Any) -> Any:
    """Return one of several values."""
    values = list(values)
    return values[int(rng.integers(len(values)))]


def damage(rng: Any, content: bytes) -> tuple[bytes, str]:
    """Return bytes that differ from a file's, and how."""
    at, how = int(rng.integers(len(content) + 1)), int(rng.integers(6))
    return [
        (content[:at], f"cut at {at}"),
        (content[:at] + bytes([rng.integers(256)]) + content[at + 1 :], f"byte {at} changed"),
        (b"", "empty"),
        (rng.bytes(max(1, len(content) // 2)), "random bytes"),
        (content[: at // 2] + content[at:], f"bytes {at // 2} to {at} gone"),
        (content + rng.bytes(50), "more at its end"),
    ][how]


def record(maker: Maker, rng: Any, place: Path) -> Case:
    """An args.json with other values, types or none."""

    def change(folder: Path) -> str:
        path = pick(rng, sorted(folder.rglob("args.json")))
        text, what = changed_record(rng, json.loads(path.read_text()))
        path.write_bytes(text)
        return f"args.json: {what}"

    roles = ("model", "conditional", "classifier", "upsampler", "points")
    return maker.with_copy(rng, place, maker.commands_of(*roles), change)


def changed_record(rng: Any, whole: dict) -> tuple[bytes, str]:
    """Return a record's text after a change, and the change."""
    args, key = whole.get("args", {}), pick(rng, whole.get("args", {"x": 1}))
    how, value = int(rng.integers(8)), pick(rng, VALUES)
    if how < 4:
        args[key] = value
        what = f"{key} is {value!r:.40}"
    elif how == 4:
        args.pop(key)
        what = f"no {key}"
    elif how == 5:
        other = pick(rng, whole)
        whole[other] = value
        what = f"entry {other} is {value!r:.40}"
    elif how == 6:
        return json.dumps(value).encode("utf-8", "surrogatepass"), f"is {value!r:.40}"
    else:
        deep = b"[" * 100000 + b"]" * 100000
        texts = deep, b"\xff\xfe", b"{" * 2000, b'{"args": {}, "args": 1}', b"\x00" * 9
        return (
            damage(rng, json.dumps(whole).encode()) if rng.integers(2) else (pick(rng, texts), "")
        )
    return json.dumps(whole).encode(), what


def resumed(maker: Maker, rng: Any, place: Path) -> Case:
    """A run folder that is to be continued, with a file of it changed."""
    name = pick(rng, RESUMED)
    argv = maker.line(name, place)
    if name in ("image_train", "classifier_train", "synthetic_train"):
        argv += ["--save_interval", "1"]
    succeed(name, *argv)
    forget_digests(rng, place)
    files = [p for p in sorted((place / "out").rglob("*")) if p.is_file() and p.stat().st_size]
    path = pick(rng, files)
    if path.name == "args.json" and rng.integers(2):
        content, what = changed_record(rng, json.loads(path.read_text()))
    elif path.suffix == ".pt" and rng.integers(2):
        whole = torch.load(path, weights_only=True)
        content, what = (changed_moments if "state" in whole else changed_state)(rng, whole, place)
    else:
        content, what = damage(rng, path.read_bytes())
    path.write_bytes(content)
    further = {"image_train": ["--max_steps", "2"], "synthetic_train": ["--max_steps", "3"]}
    return Case(name, argv + further.get(name, []), f"{path.name}: {what}", {}, place)


def weights(maker: Maker, rng: Any, place: Path) -> Case:
    """A checkpoint that is damaged, or holds something else."""

    def change(folder: Path) -> str:
        paths = sorted(folder.rglob("*.pt"))
        forget_digests(rng, folder)
        named, how = pick(rng, paths), int(rng.integers(3))
        if how == 0:
            content, what = damage(rng, named.read_bytes())
            for path in paths:
                path.write_bytes(content)
            return f"every .pt like {named.name}, {what}"
        whole = torch.load(named, weights_only=True)
        change = changed_moments if "state" in whole and rng.integers(4) else changed_state
        made, what = change(rng, whole, place)
        for path in paths:
            path.write_bytes(made)
        return f"every .pt: {what}"

    roles = ("model", "conditional", "classifier", "upsampler", "points")
    return maker.with_copy(rng, place, maker.commands_of(*roles), change)


def changed_state(rng: Any, state: dict, place: Path) -> tuple[bytes, str]:
    """Return a .pt of something that is no state dict of the network, and what it is."""
    key = pick(rng, [k for k, v in state.items() if torch.is_tensor(v)] or state)
    value = state[key] if torch.is_tensor(state[key]) else torch.zeros(3)
    entries: dict[str, Callable[[], Any]] = {
        "sparse": lambda: value.to_sparse(),
        "quantised": lambda: torch.quantize_per_tensor(value.float(), 0.1, 0, torch.qint8),
        "meta": lambda: value.to("meta"),
        "nested": lambda: torch.nested.nested_tensor([value.reshape(-1), value.reshape(-1)[:1]]),
        "complex": lambda: value.to(torch.complex64),
        "whole numbers": lambda: value.to(torch.int64),
        "of truths": lambda: value.bool(),
        "double": lambda: value.double(),
        "not finite": lambda: value * float("nan"),
        "of another shape": lambda: torch.zeros(*value.shape, 2),
        "expanded": lambda: torch.zeros(1).expand(2**40),
        "empty": lambda: value[:0],
        "a number": lambda: 3,
        "text": lambda: "x",
    }
    what = pick(rng, [*entries, "gone", "more", "list", "wrapped", "pickle", "plain", "keys"])
    if what in entries:
        state[key] = entries[what]()
    elif what == "gone":
        del state[key]
    elif what == "more":
        state["more"] = value
    elif what == "keys":
        state = dict(enumerate(state.values()))
    elif what == "pickle":
        return pickle.dumps(Payload(place / "payload")), "a pickle that runs code"
    made: Any = {"list": list(state.values()), "wrapped": {"state_dict": state}, "plain": 3}
    file = io.BytesIO()
    torch.save(made.get(what, state), file)
    return file.getvalue(), f"{key} {what}"


def forget_digests(rng: Any, folder: Path) -> None:
    """Remove the digests beside checkpoints, as where they came without, in two of three cases."""
    for path in folder.rglob("*.sha256") if rng.integers(3) else ():
        path.unlink()


def changed_moments(rng: Any, whole: dict, place: Path) -> tuple[bytes, str]:
    """Return an optimizer's file with other moments, groups or loop, and what is other."""
    of_weight = whole["state"][pick(rng, whole["state"])]
    name = pick(rng, of_weight)
    value = of_weight[name]
    wider = torch.zeros(2 * max(1, value.numel()))
    entries: list[Any] = [
        *(wider, value.reshape(-1)[:0], value.half(), value.to_sparse(), value.to("meta")),
        *(value * float("nan"), value.long(), 3, "x", None, [value], torch.zeros(1).expand(10**6)),
    ]
    how = int(rng.integers(6))
    if how < 3:
        of_weight[name] = changed = pick(rng, entries)
    elif how == 3:
        place_of = pick(rng, [whole, whole["param_groups"][0], whole.get("loop", {})])
        name, changed = pick(rng, place_of), pick(rng, VALUES)
        place_of[name] = changed
    elif how == 4:
        del of_weight[name]
        changed = "gone"
    else:
        whole["param_groups"][0]["params"] = changed = pick(rng, [[], [0], [0] * 99, ["x"], None])
    file = io.BytesIO()
    torch.save(whole, file)
    return file.getvalue(), f"{name} is {str(changed):.40}"


def arrays(maker: Maker, rng: Any, place: Path) -> Case:
    """An .npz that is damaged, or holds other arrays."""

    def change(path: Path) -> str:
        if rng.integers(3) == 0:
            content, what = damage(rng, path.read_bytes())
            path.write_bytes(content)
            return what
        good = np.load(path)["arr_0"]
        made: dict[str, Callable[[], Any]] = {
            "floats": lambda: good.astype(np.float32),
            "flat": lambda: good.reshape(-1),
            "no images": lambda: good[:0],
            "one image": lambda: good[:1],
            "two channels": lambda: good[..., :2],
            "grey": lambda: good[..., 0],
            "objects": lambda: np.array([Payload(place / "payload")], dtype=object),
            "text": lambda: np.array(["a", "b"]),
            "records": lambda: np.zeros(4, dtype=[("a", np.uint8), ("b", np.float64)]),
            "a number": lambda: np.uint8(3),
            "oblong": lambda: good[:, :4],
            "of truths": lambda: good > 3,
            "Fortran's order": lambda: np.asfortranarray(good),
        }
        what = pick(rng, [*made, "header", "name", "bomb", "classes", "negative"])
        if what in made:
            np.savez(path, arr_0=made[what]())
        elif what == "name":
            np.savez(path, other=good)
        elif what == "classes":
            np.savez(path, arr_0=good, arr_1=pick(rng, [good[:2], np.array([-1] * 12), "x"]))
        else:
            header = {
                "header": pick(
                    rng, [b"{'descr': '|u1'}", b"__import__('os')", b"(" * 999, b"\xff"]
                ),
                "bomb": b"{'descr': '|u1', 'fortran_order': False, 'shape': (99999, 9999, 999, 3)}",
                "negative": b"{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 8, 8, 3)}",
            }[what]
            npy = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(768)
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("arr_0.npy", npy)
        return what

    return maker.with_copy(rng, place, maker.commands_of("small"), change)


def table(maker: Maker, rng: Any, place: Path) -> Case:
    """A manifest with other cells, columns or bytes."""

    def change(folder: Path) -> str:
        path = folder / "manifest.csv"
        if rng.integers(3) == 0:
            content, what = damage(rng, path.read_bytes())
            path.write_bytes(content)
            return what
        with open(path, newline="") as file:
            rows = list(csv.reader(file))
        row, column = int(rng.integers(len(rows))), int(rng.integers(len(rows[0])))
        value = pick(rng, [*NONSENSE, "a" * 200_000, "\x00", "../../x.png", "/etc/passwd", '"'])
        rows[row][column] = value
        if rng.integers(4) == 0:
            rows = [line[:column] + line[column + 1 :] for line in rows]
        with open(path, "w", newline="", errors="surrogatepass") as file:
            csv.writer(file).writerows(rows)
        return f"row {row}, column {column} is {value!r:.40}"

    return maker.with_copy(rng, place, maker.commands_of("sequences"), change)


def pixels(maker: Maker, rng: Any, place: Path) -> Case:
    """A folder of images with one that is odd."""

    def change(folder: Path) -> str:
        path = pick(rng, sorted(folder.glob("*.png")))
        how = int(rng.integers(3))
        if how == 0:
            content, what = damage(rng, path.read_bytes())
            path.write_bytes(content)
            return f"{path.name}: {what}"
        return f"{path.name}: {odd_image(rng, path)}"

    return maker.with_copy(rng, place, maker.commands_of("images"), change)


def odd_image(rng: Any, path: Path) -> str:
    """Put something odd into the place of a picture, and say what."""
    grey = Image.fromarray(rng.integers(0, 256, (16, 16), dtype=np.uint8))
    modes = ("1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "I", "F", "YCbCr", "HSV", "LAB")
    what = pick(rng, [*modes, "long", "pipe", "folder", "link", "device", "text", "tiny", "loop"])
    path.unlink()
    if what in modes:
        with io.BytesIO() as file:
            made = grey.convert("RGB").convert(what) if what != "I;16" else grey.convert(what)
            form = "tiff" if what in ("F", "CMYK", "YCbCr", "HSV", "LAB", "I") else "png"
            with_errors = (OSError, ValueError, KeyError)
            try:
                made.save(file, form)
            except with_errors:
                made.convert("RGB").save(file, "bmp")
            path.write_bytes(file.getvalue())
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what in ("link", "loop", "device"):
        path.symlink_to({"link": "nowhere", "loop": path.name, "device": "/dev/zero"}[what])
    elif what == "text":
        path.write_text("no picture")
    else:
        grey.resize((1, 20000) if what == "long" else (1, 1)).save(path)
    return what


def flags(maker: Maker, rng: Any, place: Path) -> Case:
    """A flag with nonsense."""
    name = pick(rng, USUAL)
    parser = load_script(name).main
    actions = []
    if hasattr(parser, "parser"):
        known = [a.option_strings[0] for a in parser.parser()._actions if a.option_strings]
        actions = [flag for flag in known if flag not in ("-h", "--help")]
    flag = pick(rng, actions or ["--out", "--device", "--num_images", "--amount", "--seed"])
    small = flag.removeprefix("--") in LONG
    value = pick(rng, [v for v in NONSENSE if not (small and v.strip("-")[:1].isdigit())])
    more = [flag] if rng.integers(20) == 0 else [f"{flag}={value}"]
    return Case(name, maker.line(name, place) + more, f"{flag} {value!r:.40}", {}, place)


def variables(maker: Maker, rng: Any, place: Path) -> Case:
    """Variables of the environment with nonsense."""
    name = pick(rng, [n for n in USUAL if n != "benchmark"])
    texts = [text for text in NONSENSE if text != "\ud800"]
    chosen = {str(v): pick(rng, texts) for v in rng.choice(VARIABLES, 2, replace=False)}
    # A rank of several waits for the others, as it should.
    chosen = {v: "x" if t.strip().isdigit() else t for v, t in chosen.items()}
    return Case(name, maker.line(name, place), f"{chosen}", chosen, place)


KINDS: dict[str, Callable[[Maker, Any, Path], Case]] = {
    "record": record,
    "flags": flags,
    "weights": weights,
    "arrays": arrays,
    "pixels": pixels,
    "table": table,
    "resumed": resumed,
    "variables": variables,
}
