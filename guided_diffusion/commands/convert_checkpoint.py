"""Rewrite a checkpoint: .pt or .safetensors, attention order, number format.

The network computes the same before and after. Where an args.json lies beside the input, one
with the new order is written beside the output.
"""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..config import flags, tool_options
from ..errors import ArgumentError, UserError, blame
from ..models import checkpoint, convert
from ..runtime import atomic_files, command, logger, run_folder

SUFFIXES = (".pt", checkpoint.SAFETENSORS)


@command.command(interrupted=command.STARTS_ANEW)
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command with the given flags, those of the command line by default."""
    # Read the flags, the checkpoint, and the record of its network.
    args = create_argparser().parse_args(argv)
    validate(args)
    file, output = checkpoint.weights_file(Path(args.model_path)), Path(args.output)
    state, record = checkpoint.load_state(file), read_record(file.with_name("args.json"))

    # Rewrite both.
    if args.attention_order != "keep":
        layout = layout_of(file, record, args)
        if layout.order != args.attention_order:
            state = convert.swap_attention_order(state, layout)
        if record:
            record["args"] = convert.record_order(record["args"], args.attention_order)
    if args.dtype != "keep":
        state = convert.cast(state, getattr(torch, args.dtype))

    # Save both.
    refuse_overwriting(file, record, output)
    with blame("output"):
        atomic_files.make_folder(output.parent)
    checkpoint.save_state(state, output)
    if record:
        with atomic_files.atomic_write(output.with_name("args.json"), "w") as target:
            json.dump(record, target, indent=2)
    logger.log(f"saved {output}" + (" and the args.json beside it" if record else ""))


def create_argparser() -> argparse.ArgumentParser:
    """Return the parser of all flags."""
    return flags.create_parser(__doc__, tool_options.ConvertOptions)


def validate(args: argparse.Namespace) -> None:
    """Stop on flags that cannot work, before anything is loaded."""
    if not args.model_path:
        raise ArgumentError(
            "model_path", "expected a checkpoint or a training run folder, got none"
        )
    if Path(args.output).suffix not in SUFFIXES:
        names = " or ".join(SUFFIXES)
        raise ArgumentError(
            "output", f"expected a file name that ends in {names}, got {args.output!r}"
        )


def read_record(path: Path) -> dict[str, Any]:
    """Return the content of an args.json, {} where there is none."""
    return run_folder.read_args(path) if path.exists() else {}


def layout_of(
    file: Path, record: dict[str, Any], args: argparse.Namespace
) -> convert.AttentionLayout:
    """Return what the projections of a file mean, by the flags, else by its args.json.

    Raises:
        UserError: where neither tells.
    """
    heads = {f.name for f in dataclasses.fields(convert.AttentionLayout)} & vars(args).keys()
    given = {name: getattr(args, name) for name in heads if getattr(args, name) != -1}
    if "num_heads" in given:
        given.setdefault("num_head_channels", -1)
    order = {"order": args.input_order} if args.input_order else {}
    if record:
        return dataclasses.replace(convert.recorded_layout(record["args"]), **order, **given)
    counted = given.keys() & {"num_heads", "num_head_channels"}
    for flag, told in (("--input_order", order), ("--num_heads or --num_head_channels", counted)):
        if not told:
            raise UserError(f"{flag}: expected it, since {file} has no args.json beside it")
    return convert.AttentionLayout(**order, **given)


def refuse_overwriting(file: Path, record: dict[str, Any], output: Path) -> None:
    """Stop where the output would replace the input, or the record of another network.

    Raises:
        UserError: naming the file.
    """
    if output.resolve() == file.resolve():
        raise ArgumentError("output", f"expected another file than the input, got {output}")
    beside = output.with_name("args.json")
    if read_record(beside) not in ({}, record):
        raise ArgumentError(
            "output", f"{beside} describes another network than the output; choose another folder"
        )
