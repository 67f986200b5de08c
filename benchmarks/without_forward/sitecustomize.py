"""Python runs this when it starts with this folder on its path: networks then answer without arithmetic.

What is left of a run is all but the forward. The answer is the prompts' box, so that what follows has a real mask to
work on, and every weight is read once, lest memory-mapped weights seem to cost nothing.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

BOX = 2
"""The box's channel among the eight that both networks see."""


def _read(network) -> None:
    for parameter in network.parameters():
        parameter.sum()


def _predictor_forward(predictor, batch):
    """Ours: (N, 8, D, H, W) -> log-odds (N, D, H, W)."""
    _read(predictor.network)
    predictor.seconds[tuple(batch.shape[2:])] = 0.0
    return batch[:, BOX] * 8 - 4


def _network_forward(network, channels):
    """The authors': (1, 8, D, H, W) -> a list of one tensor of both heads' logits (1, 2, D, H, W)."""
    _read(network)
    box = channels[:, BOX : BOX + 1]
    return [(box * 8 - 4).repeat(1, 2, 1, 1, 1) * box.new_tensor([0, 1]).view(1, 2, 1, 1, 1)]


FORWARDS = {
    "inference.predictor": ("Predictor", _predictor_forward),
    "dynamic_network_architectures.architectures.unet": ("ResidualEncoderUNet", _network_forward),
}
"""Module -> the class in it whose ``forward`` is replaced, and by what."""


class _Finder:
    """Finds the modules above as Python would, and replaces their forward once they have run."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in FORWARDS:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            owner, forward = FORWARDS[name]
            getattr(module, owner).forward = forward

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, _Finder)
