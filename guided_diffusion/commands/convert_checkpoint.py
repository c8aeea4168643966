"""Rewrite a checkpoint: .pt or .safetensors, attention order, number format.

The network computes the same before and after. If an args.json lies beside the input, a copy with
the new order is written beside the output, and a labels.json with the classes likewise.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

from ..data import classes as class_records
from ..errors import ArgumentError, UserError, blame
from ..models import checkpoint, convert
from ..models.convert import AttentionLayout
from ..models.settings import ConvertSettings
from ..runtime import atomic_files, logger, run_folder
from ..runtime.command import STARTS_ANEW, command

SUFFIXES = (".pt", checkpoint.SAFETENSORS)


@command(interrupted=STARTS_ANEW)
def main(asked: ConvertSettings) -> None:
    """Rewrite the checkpoint."""
    # Read the checkpoint, and the record of its network.
    if not asked.model_path:
        problem = "expected a checkpoint or a training run folder, got none"
        raise ArgumentError("model_path", problem)
    if Path(asked.output).suffix not in SUFFIXES:
        expected = f"expected a file name that ends in {' or '.join(SUFFIXES)}"
        raise ArgumentError("output", f"{expected}, got {asked.output!r}")
    file, output = checkpoint.weights_file(Path(asked.model_path)), Path(asked.output)
    state, record = checkpoint.load_state(file), checkpoint.training_record(file)

    # Rewrite both.
    if asked.attention_order != "keep":
        layout = layout_of(file, record, asked)
        if layout.order != asked.attention_order:
            state = convert.swap_attention_order(state, layout)
        if record:
            record["args"] = convert.record_order(record["args"], asked.attention_order)
    if asked.dtype != "keep":
        state = convert.cast(state, getattr(torch, asked.dtype))

    # Save both, over neither the input nor the record of another network.
    if output.resolve() == file.resolve():
        raise ArgumentError("output", f"expected another file than the input, got {output}")
    beside = output.with_name(run_folder.RECORD)
    if run_folder.read_args(beside) not in ({}, record):
        problem = f"{beside} describes another network than the output; choose another folder"
        raise ArgumentError("output", problem)
    classes = class_records.beside(file), class_records.beside(output)
    if all(classes) and not classes[0].same_as(classes[1]):
        problem = f"{classes[1].origin} names the classes of another network than the output"
        raise ArgumentError("output", f"{problem}; choose another folder")
    with blame("output"):
        atomic_files.make_folder(output.parent)
        atomic_files.remove_leftovers(output)
    checkpoint.save_state(state, output)
    if record:
        with atomic_files.atomic_write(beside, "w") as target:
            json.dump(record, target, indent=2)
    if classes[0]:
        classes[0].save(output.parent)
    logger.log(f"saved {output}" + (" and the args.json beside it" if record else ""))


def layout_of(file: Path, record: dict[str, Any], asked: ConvertSettings) -> AttentionLayout:
    """Return the layout of a file's attention projections, by the flags, else by its args.json.

    Raises:
        UserError: if neither gives it.
    """
    fields = {field.name for field in dataclasses.fields(AttentionLayout)}
    given = {name: v for name, v in asked.values().items() if name in fields and v != -1}
    if "num_heads" in given:
        given.setdefault("num_head_channels", -1)
    order = {"order": asked.input_order} if asked.input_order else {}
    if record:
        return dataclasses.replace(convert.recorded_layout(record["args"]), **order, **given)
    counted = given.keys() & {"num_heads", "num_head_channels"}
    for flag, told in (("--input_order", order), ("--num_heads or --num_head_channels", counted)):
        if not told:
            raise UserError(f"{flag}: expected it, since {file} has no args.json beside it")
    return AttentionLayout(**order, **given)
