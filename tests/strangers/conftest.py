"""What stands at the top of every upstream script."""

import gc

import pytest
import torch as th

from guided_diffusion import dist_util, logger


@pytest.fixture(scope="module", autouse=True)
def _quick_collections():
    # Every test ends its process group, and with it the garbage is collected. Without this, all
    # that was imported would be looked through each time: 0.2 s a test.
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _script_head(tmp_path):
    dist_util.setup_dist()
    logger.configure(dir=str(tmp_path / "logs"))
    th.manual_seed(0)
    yield
    logger.reset()
