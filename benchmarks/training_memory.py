"""`python -m benchmarks.training_memory`: the GPU memory that training takes, counted without a GPU.

The trainer's own forward and loss run on tensors that have a device, a shape and a dtype but no content (PyTorch's fake
tensors), in float16 as on a GPU; hooks note each tensor that is kept for the gradients. With `--checkpoint-activations`
a stage is computed again when its gradients are, so the largest stage's tensors count too. Added are weights,
gradients and AdamW's two moments, in float32, and four full-resolution tensors in float32 that the backward works on.
What cuDNN takes for itself, the CUDA context and fragmentation are not counted: 1 to 3 GiB.

Needs a build of PyTorch for CUDA, but no GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Generator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from inference.network import IMAGE_AND_PROMPT_CHANNELS, ResidualEncoderUNet
from training.activations import checkpoint_stages
from training.config import CONFIGS
from training.interaction import log_odds
from training.loss import segmentation_loss

COPIES = 4
"""Of the weights in float32: themselves, their gradients, and AdamW's two moments."""

WORKING = 4
"""Full-resolution tensors in float32 that the backward works on at a time."""


def kept(forward: Callable[[], object], parameters: set[int]) -> int:
    """Bytes that a forward keeps for its gradients, parameters left out."""
    storages: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        storages.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        result = forward()
    del result
    return sum(each.untyped_storage().nbytes() for key, each in storages.items() if key not in parameters)


def stages(network: ResidualEncoderUNet, channels: Tensor, parameters: set[int]) -> int:
    """Bytes that the largest stage keeps while its gradients are computed."""
    encoder, decoder = network.encoder, network.decoder
    skips, found, x = [], [], channels
    for stage in (encoder.stem, *encoder.stages):
        found.append(kept(lambda stage=stage, x=x: stage(x), parameters))
        x = stage(x)
        skips.append(x)
    for upsample, stage, skip in zip(decoder.transpconvs, decoder.stages, skips[-2:0:-1]):
        joined = lambda u=upsample, s=stage, x=x, k=skip: s(torch.cat((u(x), k), dim=1))  # noqa: E731
        found.append(kept(joined, parameters))
        x = joined()
    return max(found)


@contextmanager
def _autocast(enabled: bool) -> Generator[None, None, None]:
    """As ``torch.autocast("cuda", torch.float16)``, which is refused where there is no GPU."""
    torch.set_autocast_enabled("cuda", enabled)
    torch.set_autocast_dtype("cuda", torch.float16)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", False)
        torch.clear_autocast_cache()


def estimate(config_name: str, patch: int, batch: int, checkpointed: bool, half: bool) -> dict[str, float]:
    """GiB by what takes it."""
    with FakeTensorMode(), torch.device("cuda"):
        network = ResidualEncoderUNet(CONFIGS[config_name].model.network)
        parameters = {each.untyped_storage()._cdata for each in network.parameters()}
        channels = torch.zeros(batch, IMAGE_AND_PROMPT_CHANNELS, *(patch,) * 3)
        truth = torch.zeros(batch, *(patch,) * 3)
        weights = sum(each.nbytes for each in network.parameters())
        with _autocast(half):
            largest = stages(network, channels, parameters) if checkpointed else 0
        if checkpointed:
            checkpoint_stages(network)

        def step() -> Tensor:
            with _autocast(half):
                odds = log_odds(network(channels))
            return segmentation_loss(odds, truth)

        forward = kept(step, parameters)
    width = CONFIGS[config_name].model.network.features[0]
    working = WORKING * batch * width * patch**3 * 4
    parts = {"states": COPIES * weights, "kept": forward, "again": largest, "working": working}
    return {name: size / 2**30 for name, size in parts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_memory", description=__doc__.split("\n")[0])
    parser.add_argument("--config", choices=sorted(CONFIGS), default="paper")
    parser.add_argument("--patch", type=int, help="edge in voxels (default: the configuration's)")
    options = parser.parse_args()
    patch = options.patch or CONFIGS[options.config].model.patch[0]
    print(f"{options.config} at {patch}³, GiB; torch {torch.__version__}")
    columns = "".join(f"{name:>9}" for name in ("states", "kept", "again", "working", "sum"))
    print(f"batch precision checkpointed{columns}")
    for batch in (1, 2):
        for half in (True, False):
            for checkpointed in (False, True):
                found = estimate(options.config, patch, batch, checkpointed, half)
                numbers = " ".join(f"{size:8.1f}" for size in (*found.values(), sum(found.values())))
                precision = "float16" if half else "float32"
                print(f"{batch:>5} {precision:>9} {'yes' if checkpointed else 'no':>12} {numbers}", flush=True)


if __name__ == "__main__":
    main()
