"""How many generated case files, from ordinary to absurd, can be segmented or refused without harm.

``python -m tests.robustness.campaigns.cases`` tries 20,000 with a tiny network and ends with an example of what went
wrong, if anything does; ``tests/robustness/test_generated_cases.py`` tries a few of the same.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from tqdm import tqdm

from inference.command import Parser, run
from tests.robustness.generated import REAL, Generated, Runs, cases, image_of

LARGE = [(300, 300, 300), (1, 300, 300), (300, 300, 2), (299, 1, 300), (211, 97, 300)]


def main() -> int:
    """Runs the campaign; 1 if a case did harm."""
    parser = Parser("python -m tests.robustness.campaigns.cases", __doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--voxels", type=int, default=2**12, help="of a case at most; its axes are up to 300 long")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, tqdm(total=options.cases, mininterval=10) as bar:
        runs = Runs(Path(folder))
        tried = 0

        @seed(options.seed)
        @settings(
            max_examples=options.cases,
            deadline=None,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
            verbosity=Verbosity.normal,
        )
        @given(generated=cases(options.voxels))
        def campaign(generated: Generated) -> None:
            nonlocal tried
            tried += 1
            bar.update()
            runs.check(generated)

        campaign()
        for shape in LARGE:
            for dtype in REAL:
                tried += 1
                clicks = np.array([{"fg": [[n - 1 for n in shape]], "bg": [[0, 0, 0]]}])
                keys = {"imgs": image_of(shape, np.dtype(dtype), "noise", 0), "clicks": clicks}
                runs.check(Generated(keys, usable=True, objects=1))
    seconds = time.monotonic() - began
    print(f"{tried} cases in {seconds:.0f} s: {tried - runs.refused} segmented, {runs.refused} refused, none did harm")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
