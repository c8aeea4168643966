"""What stands at the top of every upstream script."""

import pytest
import torch as th

from guided_diffusion import dist_util, logger


@pytest.fixture(autouse=True)
def _script_head(tmp_path):
    dist_util.setup_dist()
    logger.configure(dir=str(tmp_path / "logs"))
    th.manual_seed(0)
    yield
    logger.reset()
