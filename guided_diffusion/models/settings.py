"""Settings of converting checkpoints."""

import dataclasses

from ..config.settings import Settings, setting


@dataclasses.dataclass(frozen=True)
class ConvertSettings(Settings):
    """Rewriting a checkpoint."""

    model_path: str = setting(
        "", "checkpoint (.pt or .safetensors) or training run folder", required=True
    )
    output: str = setting(
        "", "file to write, in the format of its suffix: .pt or .safetensors", required=True
    )
    attention_order: str = setting(
        "keep",
        "channel order of the qkv projections in the output: legacy (q,k,v per head), new (heads "
        "per q,k,v), keep (the order of the input)",
        choices=("keep", "legacy", "new"),
    )
    dtype: str = setting(
        "keep", "number format of the weights", choices=("keep", "float32", "float16", "bfloat16")
    )
    input_order: str = setting(
        "", "channel order of the input; empty: by its args.json", choices=("", "legacy", "new")
    )
    num_heads: int = setting(
        -1, "attention heads of the input; -1: by its args.json", minimum=1, also=(-1,)
    )
    num_heads_upsample: int = setting(
        -1, "heads in its output blocks; -1: by args.json, else --num_heads", minimum=1, also=(-1,)
    )
    num_head_channels: int = setting(
        -1, "channels per head, in place of --num_heads; -1: by args.json", minimum=1, also=(-1,)
    )
