"""What upstream's four repositories offer: `api` and `cli` of each, see `test_interface.py`."""

import gzip
import json
from typing import Any

from support.reference_images import REFERENCE

INTERFACE: dict[str, Any] = json.loads(
    gzip.decompress((REFERENCE / "upstream_interface.json.gz").read_bytes())
)
