"""All that changes while a run trains, and the file from which the run goes on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from inference.atomic import replacing
from inference.network import ResidualEncoderUNet
from training.step import LossScaler


class ResumeError(Exception):
    """A run's ``last.pt`` is not what the run could go on from. Its text is one line that says what to do."""


_NUMBERS = ("step", "samples", "seconds", "skipped")
_STATEFUL = ("network", "average", "scaler")


@dataclass
class State:
    """The network, its running average, the optimizers, and how far the run is.

    Args:
        network: what is trained.
        average: the running average of its weights, which is what is shipped; the network itself if none is kept.
        optimizers: of the network's parameters.
        scaler: of the loss, for gradients in float16.
        step: steps of the optimizer so far.
        samples: shown so far, in all processes.
        seconds: trained so far, earlier commands included.
    """

    network: ResidualEncoderUNet
    average: ResidualEncoderUNet
    optimizers: list[torch.optim.Optimizer]
    scaler: LossScaler
    step: int = 0
    samples: int = 0
    seconds: float = 0.0

    @property
    def skipped(self) -> int:
        """Steps without an update, since their gradients were not finite; asking waits for the device."""
        return int(self.scaler.skipped)

    @skipped.setter
    def skipped(self, count: int) -> None:
        self.scaler.skipped.fill_(count)

    def content(self) -> dict[str, object]:
        """Returns numbers and state dictionaries, as :meth:`save` writes them."""
        content: dict[str, object] = {name: getattr(self, name) for name in _NUMBERS}
        content |= {name: getattr(self, name).state_dict() for name in _STATEFUL}
        content["optimizers"] = [optimizer.state_dict() for optimizer in self.optimizers]
        return content

    def save(self, path: Path) -> None:
        """Writes everything, whole or not at all."""
        with replacing(path) as unfinished:
            torch.save(self.content(), unfinished)

    def load(self, path: Path, device: torch.device) -> None:
        """Goes on from a file that :meth:`save` wrote, on whatever device, or that was joined from pieces.

        Raises:
            ResumeError: it is none, or of a run with another network or optimizer.
        """
        try:
            content = torch.load(path, map_location=device, weights_only=True)
            if content.keys() != {*_NUMBERS, *_STATEFUL, "optimizers"}:
                raise ValueError("it holds other things than today's runs do")
            for name in _STATEFUL:
                getattr(self, name).load_state_dict(content[name])
            for optimizer, saved in zip(self.optimizers, content["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
        except Exception as error:  # A broken pickle may end in nearly any of them.
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            if "loading state_dict" in reason:
                reason = "it is of another network"
            raise ResumeError(
                f"{path}: this run cannot go on from it ({reason}); give the options that it was begun with, or "
                "another folder with --out"
            ) from error
        for name in _NUMBERS:
            setattr(self, name, content[name])
