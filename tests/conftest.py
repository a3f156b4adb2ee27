"""Settings of every test process."""

import os

# Two test processes share two cores: threads of their own only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
