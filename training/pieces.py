"""A run's state in pieces, for channels that limit the size of a file and the number of files.

A folder of pieces holds ``state.00``, ``state.01``, … of at most so many MB, ``log.csv`` and ``SHA256SUMS``. Joined,
they are a file that torch saved: the configuration of the network, and the run's state with network and running average
in float16 and the optimizer's momentum in bfloat16, half as large as ``last.pt``. ``python -m training.pieces FOLDER
--out RUN`` verifies and joins them: RUN then holds ``last.pt``, from which the run goes on, ``weights.pt``, which
inference reads, and ``log.csv``.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inference import checkpoint
from inference.atomic import replacing
from inference.checkpoint import ModelConfig
from inference.command import Parser, run
from training.state import State

CHECKSUMS = "SHA256SUMS"
PIECE = re.compile(r"state\.\d\d")
STEP = re.compile(r"step-\d{8,}")


class PiecesError(Exception):
    """Pieces that cannot be joined; the message is one line: which file, what is wrong, what to do."""


def write(state: State, model: ModelConfig, log: Path, folder: Path, megabytes: float) -> Path:
    """Writes the state into ``folder/step-…`` and removes the older one there.

    The new folder appears whole, by one renaming: a process that is killed leaves the older one, or both.

    Args:
        state: of the run; not changed.
        model: what the network is.
        log: the run's ``log.csv``, copied beside the pieces.
        folder: made if it is not there.
        megabytes: of a piece, at most (10⁶ bytes).

    Returns:
        the new folder.

    Raises:
        ValueError: pieces of no bytes.
        OSError: the folder cannot be written.
    """
    limit = int(megabytes * 1e6)
    if limit < 1:
        raise ValueError(f"pieces of {megabytes} MB: expected more than 0")
    buffer = io.BytesIO()
    torch.save({"state": _halved(state.content()), "model": model.to_dict()}, buffer)
    content = buffer.getbuffer()
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=".", dir=folder))
    try:
        shutil.copyfile(log, unfinished / log.name)
        for number, first in enumerate(range(0, len(content), limit)):
            (unfinished / f"state.{number:02d}").write_bytes(content[first : first + limit])
        sums = [f"{_sha256(path)}  {path.name}\n" for path in sorted(unfinished.iterdir())]
        (unfinished / CHECKSUMS).write_text("".join(sums))
        unfinished.chmod(0o755)
        target = folder / f"step-{state.step:08d}"
        older = [path for path in folder.iterdir() if STEP.fullmatch(path.name) and path != target]
        if target.exists():  # Written at this very step before, by a run that was then resumed.
            shutil.rmtree(target)
        unfinished.rename(target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    for path in older:
        shutil.rmtree(path)
    return target


def join(folder: Path, out: Path) -> int:
    """Verifies pieces and writes ``last.pt``, ``weights.pt`` and ``log.csv`` into ``out``.

    Args:
        folder: of pieces, or with folders ``step-…`` of them: the newest that is whole is taken.
        out: made if it is not there.

    Returns:
        the step of the state.

    Raises:
        PiecesError: nothing that is whole; what is missing or damaged is named.
    """
    candidates = sorted((path for path in folder.glob("*/") if STEP.fullmatch(path.name)), reverse=True) or [folder]
    wrong = []
    for candidate in candidates:
        try:
            content = _joined(candidate)
        except PiecesError as error:
            wrong.append(str(error))
            continue
        break
    else:
        raise PiecesError("; ".join(wrong))
    for line in wrong:
        print(f"{line}; an older one is taken", file=sys.stderr)
    out.mkdir(parents=True, exist_ok=True)
    state, model = content["state"], ModelConfig.from_dict(content["model"])
    checkpoint.save(out / "weights.pt", model, state["average"], torch.float16)
    shutil.copyfile(candidate / "log.csv", out / "log.csv")
    with replacing(out / "last.pt") as unfinished:  # Last: where it is, all is.
        torch.save(_whole(state), unfinished)
    return state["step"]


def _joined(folder: Path) -> dict:
    sums = folder / CHECKSUMS
    if not sums.is_file():
        raise PiecesError(f"{folder}: no {CHECKSUMS} in it; expected a folder that --pieces wrote")
    expected = {name: digest for digest, _, name in (line.partition("  ") for line in sums.read_text().splitlines())}
    for name, digest in expected.items():
        path = folder / name
        if not path.is_file():
            raise PiecesError(f"{path}: it is missing; copy it again")
        if _sha256(path) != digest:
            raise PiecesError(f"{path}: its checksum is not that of {CHECKSUMS}; copy it again")
    pieces = [folder / name for name in sorted(expected) if PIECE.fullmatch(name)]
    content = b"".join(path.read_bytes() for path in pieces)
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _halved(content: dict) -> dict:
    """Weights in float16; momentum, of which only the direction counts and whose numbers may be tiny, in bfloat16."""
    halved = dict(content)
    for name in ("network", "average"):
        halved[name] = {key: tensor.half() for key, tensor in content[name].items()}
    halved["optimizers"] = [
        {
            **optimizer,
            "state": {
                key: {n: v.bfloat16() if n == "momentum" else v for n, v in values.items()}
                for key, values in optimizer["state"].items()
            },
        }
        for optimizer in content["optimizers"]
    ]
    return halved


def _whole(state: dict) -> dict:
    """The state in float32 again."""

    def whole(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: whole(each) for key, each in value.items()}
        if isinstance(value, list):
            return [whole(each) for each in value]
        return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value

    return whole(state)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(arguments: list[str] | None = None) -> int:
    """Joins the pieces of a run's state, after verifying them."""
    parser = Parser("python -m training.pieces", main.__doc__, "returned/pieces --out runs/gpu")
    parser.add_argument("folder", type=Path, help="what --pieces of the trainer wrote, or a copy of it")
    parser.add_argument("--out", type=Path, required=True, help="folder for last.pt, weights.pt and log.csv")
    options = parser.parse_args(arguments)
    return run(lambda: _join(options), PiecesError)


def _join(options: argparse.Namespace) -> None:
    step = join(options.folder, options.out)
    print(f"{options.out}: step {step}; weights.pt for inference, last.pt to go on from")


if __name__ == "__main__":
    sys.exit(main())
