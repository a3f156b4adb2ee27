"""The benchmarks are scripts, beside each other: found as Python finds them there."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
