"""Run every script of this folder in one process: all_scripts.py DATA OUT."""

import json
import os
import sys
import time

import torch as th
import torch.distributed as dist
from sampling import enlarge, measure_likelihood, sample_images, sample_with_a_classifier
from training import train_classifier, train_images, train_points
from translation import progress_images, translate_classes, translate_points

from guided_diffusion import dist_util, logger

SCRIPTS = (
    sample_images,
    sample_with_a_classifier,
    measure_likelihood,
    enlarge,
    train_images,
    train_points,
    train_classifier,
    translate_points,
    translate_classes,
    progress_images,
)


def main(data, out):
    dist_util.setup_dist()
    logger.configure(dir=os.path.join(out, "log"))
    th.manual_seed(dist.get_rank())
    done = {}
    for script in SCRIPTS:
        start = time.time()
        script(data, out)
        done[script.__name__] = time.time() - start
    dist.barrier()
    place = {"rank": dist.get_rank(), "world_size": dist.get_world_size(), "done": done}
    if "PMI_RANK" in os.environ:  # started by mpiexec
        comm = dist_util.MPI.COMM_WORLD
        place |= {"mpi": [comm.Get_rank(), comm.Get_size()]}
    with open(os.path.join(out, f"rank_{dist.get_rank()}.json"), "w") as file:
        json.dump(place, file)
    logger.log("sampling complete")


if __name__ == "__main__":
    main(*sys.argv[1:])
