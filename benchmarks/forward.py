"""`python -m benchmarks.forward`: the network's forward on a CPU, ours beside plain PyTorch's.

Two networks, each on random input: the full configuration with random weights, and the embedded weights at their own
patch. Three implementations of each with the same weights: the plain module (`LogOddsUNet`), the published architecture
as its package builds it (`pip install dynamic-network-architectures`; left out where that is missing), and what
inference runs on a CPU. Each has a process of its own, since one could change how memory is given to another; they take
turns. Prints medians of the wall and the CPU time of a forward, both as shares of the plain module's, and how far the
log-odds are from the plain module's: the largest difference over the largest log-odds, and how many voxels change sign.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.peer import peer_network
from benchmarks.timing import in_turns, timed
from inference.command import Parser, run
from inference.cpu_forward import for_cpu
from inference.model import load_model
from inference.network import FULL, LogOddsUNet, ResidualEncoderUNet
from inference.options import DEFAULT_WEIGHTS

PEER = "dynamic_network_architectures"
Forward = tuple[float, float, np.ndarray]
"""Wall seconds, CPU seconds of all threads, log-odds (D, H, W)."""


def main() -> None:
    parser = Parser("python -m benchmarks.forward", __doc__.split("\n")[0])
    parser.add_argument("--patch", type=int, default=192, help="voxels along each axis for the full configuration")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=("full", "default"), help="one of both networks")
    options = parser.parse_args()
    implementations = ["plain", "package", "ours"]
    if importlib.util.find_spec(PEER) is None:
        implementations.remove("package")
        print("package: left out, since it is not installed; pip install dynamic-network-architectures")
    print(f"torch {torch.__version__}, {options.threads} thread(s), medians of {options.repeats} forwards in turns")
    for name in ("full", "default") if options.only is None else (options.only,):
        patch = options.patch if name == "full" else load_model(DEFAULT_WEIGHTS)[1].patch[0]
        workers = {
            implementation: ProcessPoolExecutor(
                1,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_begin,
                initargs=(name, implementation, patch, options.threads),
            )
            for implementation in implementations
        }
        forwards = {
            implementation: lambda worker=worker: worker.submit(_forward).result()
            for implementation, worker in workers.items()
        }
        measured = in_turns(forwards, options.repeats)
        for worker in workers.values():
            worker.shutdown()
        _report(name, patch, measured)


def _report(name: str, patch: int, measured: dict[str, list[Forward]]) -> None:
    seconds = {
        implementation: [statistics.median(column) for column in list(zip(*forwards))[:2]]
        for implementation, forwards in measured.items()
    }
    expected = measured["plain"][-1][2]
    print(f"\n{name}, {patch}³")
    print(f"{'':<10}{'wall, s':>10}{'of plain':>10}{'CPU, s':>10}{'of plain':>10}{'difference':>13}{'other sign':>12}")
    for implementation, (wall, cpu) in seconds.items():
        found = measured[implementation][-1][2]
        difference = np.abs(found - expected).max() / np.abs(expected).max()
        other = np.mean((found > 0) != (expected > 0))
        plain_wall, plain_cpu = seconds["plain"]
        print(
            f"{implementation:<10}{wall:>10.3f}{wall / plain_wall:>10.2f}{cpu:>10.3f}{cpu / plain_cpu:>10.2f}"
            f"{difference:>13.1e}{other:>12.1e}"
        )


_network: nn.Module
_input: Tensor


def _begin(name: str, implementation: str, patch: int, threads: int) -> None:
    """Prepares the network and its input in a process of their own."""
    global _network, _input
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    network = ResidualEncoderUNet(FULL).eval() if name == "full" else load_model(DEFAULT_WEIGHTS)[0]
    _input = torch.randn(1, 8, patch, patch, patch)
    if implementation == "plain":
        plain = LogOddsUNet(network).eval()
        _network = plain.to(memory_format=torch.contiguous_format)  # ty: ignore[no-matching-overload]  # No stub has it.
    elif implementation == "ours":
        _network = for_cpu(LogOddsUNet(network).eval())
    else:
        _network = _Package(network)


def _forward() -> Forward:
    cpu = time.process_time()
    with torch.inference_mode():
        wall, log_odds = timed(lambda: _network(_input))
    return wall, time.process_time() - cpu, log_odds[0, 0].numpy()


class _Package(nn.Module):
    """The published architecture with a network's weights; both heads, subtracted."""

    def __init__(self, network: ResidualEncoderUNet) -> None:
        super().__init__()
        self.network = peer_network(network.config)
        # Its further names share memory with these tensors, so that they are filled as well.
        self.network.load_state_dict(network.state_dict(), strict=False)
        self.network.eval()

    def forward(self, x: Tensor) -> Tensor:
        heads = self.network(x)
        return heads[:, 1:] - heads[:, :1]


if __name__ == "__main__":
    sys.exit(run(main))
