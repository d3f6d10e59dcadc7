import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test asks a hub

import torch

from jarvis_mpi.model.family import quiet

torch.set_num_threads(1)
quiet()
