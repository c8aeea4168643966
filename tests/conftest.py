"""What every test starts from: one thread, no launcher, no logger, no device, no process group."""

import gc
import sys

import hypothesis
import pytest
import torch
from support.cli import TINY_CLASSIFIER, draw_images, succeed, train_two_runs
from support.two_ranks import TwoRanks

from guided_diffusion import dist_util, logger

torch.set_num_threads(1)  # the networks under test are too small to share
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True)
hypothesis.settings.load_profile("suite")

ENVIRONMENT = (
    "RANK WORLD_SIZE LOCAL_RANK PMI_RANK PMI_SIZE OMPI_COMM_WORLD_RANK OMPI_COMM_WORLD_SIZE "
    "SLURM_NTASKS SLURM_STEP_ID SLURM_STEP_NUM_TASKS SLURM_PROCID SLURM_LOCALID SLURM_JOB_ID "
    "SLURM_STEP_NODELIST SLURM_JOB_NODELIST SLURM_LAUNCH_NODE_IPADDR MASTER_ADDR MASTER_PORT "
    "OPENAI_LOGDIR OPENAI_LOG_FORMAT OPENAI_LOG_FORMAT_MPI"
).split()


class Recorder(logger.KVWriter, logger.SeqWriter):
    """A log format that keeps what it is given."""

    def __init__(self):
        self.rows, self.lines, self.closed = [], [], False

    def writekvs(self, kvs):
        self.rows.append(dict(kvs))

    def writeseq(self, seq):
        self.lines.append(" ".join(seq))

    def close(self):
        self.closed = True

    @property
    def text(self):
        return "\n".join(self.lines)


@pytest.fixture(autouse=True)
def _untouched_process(monkeypatch):
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(logger.Logger, "CURRENT", None)
    monkeypatch.setattr(logger.Logger, "DEFAULT", None)
    monkeypatch.setattr(dist_util, "_device", None)
    yield
    dist_util.cleanup()
    _exempt_imported_modules_from_collections()


_imported = 0  # modules, when this was last done


def _exempt_imported_modules_from_collections():
    # A command collects garbage when it leaves its process group. To look through torch and all
    # else that was imported takes 0.1 to 0.2 s, more than most tests.
    global _imported
    if len(sys.modules) > _imported:
        _imported = len(sys.modules)
        gc.collect()
        gc.freeze()


@pytest.fixture
def recorder(monkeypatch):
    """The only format of the current logger."""
    recorder = Recorder()
    monkeypatch.setattr(logger.Logger, "CURRENT", logger.Logger(None, [recorder]))
    return recorder


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Two tiny training runs on the same images, see `cli.Runs`; to be left as they are."""
    return train_two_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="session")
def two_ranks():
    """Two ranks under a launcher, which run any number of commands; see `support.two_ranks`."""
    with TwoRanks() as ranks:
        yield ranks


@pytest.fixture(scope="session")
def conditional(runs, tmp_path_factory):
    """A tiny run of a class-conditional model; to be left as it is."""
    folder = tmp_path_factory.mktemp("conditional")
    flags = "--class_cond True --max_steps 2 --sample_interval 0".split()
    succeed("image_train", *runs.training, *flags, "--out_dir", folder)
    return folder


@pytest.fixture(scope="session")
def classifier(runs, tmp_path_factory):
    """A tiny run of a classifier of two classes, judged by images of its own; as above."""
    folder = tmp_path_factory.mktemp("classifier") / "run"
    unseen = draw_images(tmp_path_factory.mktemp("unseen"), 4, seed=1)
    data = ["--data_dir", runs.images, "--val_data_dir", unseen]
    succeed("classifier_train", *TINY_CLASSIFIER, *data, "--out_dir", folder)
    return folder
