"""Small cases and weights, written to disk as the challenge and the project write them."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from inference import checkpoint
from inference.checkpoint import ModelConfig
from inference.geometry import Box, Voxel
from inference.network import LogOddsUNet, NetworkConfig, ResidualEncoderUNet
from inference.predictor import Predictor
from inference.prompts import PAPER_STYLE
from inference.segmenter import Segmenter

TINY = ModelConfig(NetworkConfig((8, 16), (1, 1)), (16, 16, 16), PAPER_STYLE)

Step = tuple[str, Voxel] | None
"""One object's click of one interaction: ("fg" or "bg", position); None where it had no error."""


def volume(shape: Voxel, dtype: type = np.uint8) -> np.ndarray:
    """A noisy image (D, H, W) in [0, 255], the same at every call."""
    return np.random.default_rng(0).integers(0, 256, shape).astype(dtype)


def box_entry(box: Box) -> dict[str, np.int64]:
    """A box as the challenge writes it."""
    (z_min, y_min, x_min), (z_max, y_max, x_max) = box.lower, box.upper
    entry = {"z_min": z_min, "z_max": z_max, "z_mid": (z_min + z_max) // 2}
    entry |= {"z_mid_x_min": x_min, "z_mid_x_max": x_max, "z_mid_y_min": y_min, "z_mid_y_max": y_max}
    return {key: np.int64(value) for key, value in entry.items()}


def click_entries(clicks: Sequence[Sequence[Step]]) -> dict[str, list]:
    """``clicks`` and ``clicks_order`` as the challenge writes them: one sequence of steps an object."""

    def positions(steps: Sequence[Step], kind: str) -> list[list[np.int64]]:
        return [[np.int64(v) for v in step[1]] for step in steps if step is not None and step[0] == kind]

    return {
        "clicks": [{kind: positions(steps, kind) for kind in ("fg", "bg")} for steps in clicks],
        "clicks_order": [[None if step is None else step[0] for step in steps] for steps in clicks],
    }


def write_case(
    path: Path,
    image: np.ndarray,
    boxes: Sequence[Box] | None = None,
    clicks: Sequence[Sequence[Step]] | None = None,
    **others: Any,
) -> Path:
    """A case file as the challenge's evaluator writes it; ``others`` are further keys."""
    content: dict[str, Any] = {}
    if boxes is not None:
        content["boxes"] = [box_entry(box) for box in boxes]
    if clicks is not None:
        content |= click_entries(clicks)
    return write_keys(path, image, content | others)


def write_keys(path: Path, image: np.ndarray, keys: dict[str, Any]) -> Path:
    """A case file of an image and any other keys, for what the evaluator would not write."""
    np.savez_compressed(path, imgs=image, **({"spacing": np.array([3.0, 1.0, 1.0])} | keys))
    return path


def array_header(dtype: np.dtype | type | str, shape: tuple[int, ...]) -> bytes:
    """The beginning of an ``.npy`` member that says it holds ``shape`` elements of ``dtype``."""
    file = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue()


def array_bytes(array: np.ndarray) -> bytes:
    """An array as a whole ``.npy`` member."""
    file = io.BytesIO()
    np.lib.format.write_array(file, array)
    return file.getvalue()


def write_members(path: Path, **members: bytes) -> Path:
    """A zip of raw ``.npy`` members, for what numpy itself would not write."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, content in members.items():
            archive.writestr(f"{key}.npy", content)
    return path


def write_pickle_as_boxes(path: Path, payload: bytes) -> Path:
    """A case whose image is fine and whose boxes are the given pickle."""
    return write_members(path, imgs=array_bytes(volume((4, 5, 6))), boxes=array_header(object, (1,)) + payload)


class Reduced:
    """Pickles as a call, and optionally a state that is set on what the call returned."""

    def __init__(self, *reduction: Any) -> None:
        self.reduction = reduction

    def __reduce__(self) -> tuple:
        return self.reduction

    def pickled(self) -> bytes:
        return pickle.dumps(self, protocol=4)


def read_output(path: Path) -> np.ndarray:
    """What the evaluator takes from an output."""
    with np.load(path, allow_pickle=False) as content:
        return content["segs"]


def randomized(network: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter away from its initial value, norms included, and the activations of a usual size."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
            parameter.copy_(noise * fan_in**-0.5 if parameter.ndim > 1 else 0.5 + 0.2 * noise)
    return network.eval()


def write_weights(path: Path, model: ModelConfig = TINY) -> Path:
    checkpoint.save(path, model, randomized(ResidualEncoderUNet(model.network)).state_dict())
    return path


def segmenter(network: nn.Module | None = None, model: ModelConfig = TINY) -> Segmenter:
    """A segmenter on the CPU around any module (N, 8, D, H, W) -> (N, 1, D, H, W); by default a random U-Net."""
    network = network or LogOddsUNet(randomized(ResidualEncoderUNet(model.network)))
    return Segmenter(Predictor(network.eval(), model, torch.device("cpu")))


class Repeats(nn.Module):
    """Instead of a network: what one of the input's channels says, as log-odds."""

    def __init__(self, channel: int) -> None:
        super().__init__()
        self.channel = channel

    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.channel : self.channel + 1] * 8 - 4
