"""Let the tests import what stands in `benchmarks`, as a script in there does."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
