"""The store: the same samples as from memory, whatever was killed, changed or broken on the way."""

from __future__ import annotations

import json
import multiprocessing
import random
import shutil
import signal
import time
from collections.abc import Sequence
from dataclasses import fields, replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("blosc2", reason="blosc2, which only a store needs, is not installed")

from inference.atomic import SUFFIX
from inference.case import CaseError
from inference.window import Window
from training.__main__ import _volumes, parser
from training.config import DEFAULT, TrainingConfig
from training.dataset import Volume, load_volumes
from training.recipe import Recipe, pack
from training.render import Batch, carry, render
from training.store import build, fits_in_memory, main, opened, outstanding, volumes_of
from training.stored import CASES, INDEX, StoredVolumes, StoreError, part_of, read_index, remove_unfinished_cases
from training.stream import Steps
from training.target import Target

ROOT = Path(__file__).resolve().parents[2]


def stored_in(store: Path, paths: Sequence[Path]) -> StoredVolumes:
    build(store, paths, 1)
    return opened(store, paths)[0]


@pytest.fixture
def data(folder: Path, tmp_path: Path) -> Path:
    """The small volumes, in a folder of the test's own."""
    return Path(shutil.copytree(folder, tmp_path / "data"))


@pytest.fixture(scope="session")
def real(real_volume: Path) -> list[Path]:
    """The smallest real case of each of eight sources, and one of many labels."""
    smallest: dict[str, Path] = {}
    for path in sorted(real_volume.parent.glob("*.npz"), key=lambda path: path.stat().st_size):
        smallest.setdefault("_".join(path.stem.split("_")[:2]), path)
    return [path for path in smallest.values() if path.stat().st_size < 1_000_000][:8]


def paths_of(data: Path) -> list[Path]:
    return sorted(data.glob("*.npz"))


def assert_same_recipe(one: Recipe, other: Recipe) -> None:
    for each in fields(Recipe):
        a, b = getattr(one, each.name), getattr(other, each.name)
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, each.name


def assert_same_batch(one: Batch, other: Batch) -> None:
    assert torch.equal(one.channels, other.channels) and torch.equal(one.truth, other.truth)
    assert torch.equal(one.first_click, other.first_click)


def assert_same_samples(held: Sequence[Volume], stored: Sequence[Volume], config: TrainingConfig, steps: int) -> None:
    """Recipes and batches of both kinds of steps."""
    for look in (0.0, 1.0):
        one, other = (
            Steps(each, replace(config, sampling=replace(config.sampling, finer_look=look)), seed=3)
            for each in (held, stored)
        )
        draw = ("finer_recipe", "recipe")[look == 0.0]
        for step in range(steps):
            assert_same_recipe(getattr(one, draw)(step, 0), getattr(other, draw)(step, 0))
            for a, b in zip(one[step].batches, other[step].batches, strict=True):
                assert_same_batch(a, b)


def of_all_kinds(config: TrainingConfig) -> TrainingConfig:
    """Few samples that look at no volume, many of those that read it in a way of their own."""
    sampling = replace(
        config.sampling, modalities=(), procedural=0.0, shapes=0.0, regions=0.15, synthetic=0.3, refinement=0.3
    )
    return replace(config, sampling=replace(sampling, merged=0.3), batch=2, finer_batch=1)


def test_samples_are_those_from_memory(data: Path, volumes: list[Volume], config: TrainingConfig, tmp_path: Path):
    stored = stored_in(tmp_path / "store", paths_of(data))
    assert_same_samples(volumes, stored, of_all_kinds(config), 5)


def test_samples_of_real_volumes_are_those_from_memory(real: list[Path], tmp_path: Path):
    for path in real:
        shutil.copy2(path, tmp_path)
    stored = stored_in(tmp_path / "store", paths_of(tmp_path))
    config = replace(DEFAULT, model=replace(DEFAULT.model, patch=(32, 32, 32)))
    assert_same_samples(load_volumes(tmp_path), stored, of_all_kinds(config), 6)


def test_measurements_are_those_from_memory(data: Path, volumes: list[Volume], tmp_path: Path):
    stored = stored_in(tmp_path / "store", paths_of(data))
    for one, other in zip(volumes, stored, strict=True):
        for name in ("name", "modality", "source", "shape", "objects", "likeness", "slices", "boxes", "largest_label"):
            assert getattr(one, name) == getattr(other, name), name
        assert replace(one.image, volume=None) == replace(other.image, volume=None)
        assert (other.labels.dtype, other.nbytes) == (one.labels.dtype, one.nbytes)
        for labels in ((1,), (2,), (1, 2)):
            assert Target.of(one, labels).first_click == Target.of(other, labels).first_click


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.uint16, np.float64, bool])
def test_images_of_any_type_keep_their_values(tmp_path: Path, dtype: type):
    random = np.random.default_rng(0)
    image, labels = (random.normal(0, 90, (9, 70, 66)) + 100).clip(0).astype(dtype), np.zeros((9, 70, 66), np.int32)
    labels[2:6, 3:50, 60:], labels[0, 0, 0] = 300, -1
    np.savez(tmp_path / "MR_a_1.npz", imgs=image, gts=labels)
    (held,) = load_volumes(tmp_path)
    (stored,) = stored_in(tmp_path / "store", paths_of(tmp_path))
    everywhere = (slice(None),) * 3
    assert torch.equal(stored.image.volume[everywhere], held.image.volume)
    assert torch.equal(stored.labels[everywhere], held.labels)
    # Beside the image nothing is read, and nothing is shown.
    window = Window((-40, 0, 0), (20, 20, 20), (20, 20, 20))
    assert not stored.crop(window).any() and not stored.crop_nearest(window).any()


@pytest.mark.parametrize("edge", [8, 24])
def test_a_recipe_that_carries_what_is_read_makes_the_same_sample(
    data: Path, volumes: list[Volume], config: TrainingConfig, tmp_path: Path, edge: int
):
    """With small patches it is the sample itself that is carried, with large ones the voxels."""
    stored = stored_in(tmp_path / "store", paths_of(data))
    config = of_all_kinds(replace(config, model=replace(config.model, patch=(edge,) * 3)))
    steps, carriers = Steps(volumes, config, 0), Steps(stored, config, 0)
    read = []
    for number in range(12):
        recipe = carriers.recipe(number, 0)
        if recipe.volume < 0:
            continue
        full = carry(recipe, stored[recipe.volume])
        read.append(full.read_labels is not None)
        # Only measurements of the volume are left to look at.
        volume = stored[recipe.volume]
        volume = replace(volume, image=replace(volume.image, volume=_Gone()), labels=_Gone(volume.labels.shape))
        batch = render(pack([full]), {recipe.volume: volume})
        assert_same_batch(render(pack([steps.recipe(number, 0)]), volumes), batch)
    assert any(read) if edge == 24 else not all(read)


class _Gone:
    """An array that must not be read."""

    def __init__(self, shape: tuple[int, ...] = ()) -> None:
        self.shape = shape

    def __getitem__(self, _: object) -> torch.Tensor:
        raise AssertionError("read")


def test_a_later_start_decodes_and_writes_nothing(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    stored_in(tmp_path / "store", paths_of(data))
    monkeypatch.setattr("training.store.load_volume", None)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*")}
    build(tmp_path / "store", paths_of(data))
    assert len(opened(tmp_path / "store", paths_of(data))[0]) == 3
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*")}


def test_what_lies_in_the_store_whole_is_listed_and_not_made_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    stored_in(tmp_path / "store", paths_of(data))
    (tmp_path / "store" / INDEX).unlink()
    monkeypatch.setattr("training.store.load_volume", None)
    assert len(stored_in(tmp_path / "store", paths_of(data))) == 3


def test_a_changed_file_is_stored_anew_and_the_others_are_not(data: Path, tmp_path: Path):
    stored_in(tmp_path / "store", paths_of(data))
    before = set(read_index(tmp_path / "store"))
    with np.load(data / "MR_c_d_2.npz") as arrays:
        np.savez(data / "MR_c_d_2.npz", imgs=255 - arrays["imgs"], gts=arrays["gts"])
    assert list(outstanding(tmp_path / "store", paths_of(data)).values()) == [data / "MR_c_d_2.npz"]
    with pytest.raises(StoreError, match=r"MR_c_d_2.npz is not in it as it is now"):
        opened(tmp_path / "store", paths_of(data))
    stored = stored_in(tmp_path / "store", paths_of(data))
    after = set(read_index(tmp_path / "store"))
    assert len(before & after) == 2 and {path.name for path in (tmp_path / "store" / CASES).iterdir()} == after
    assert torch.equal(stored[2].image.volume[(slice(None),) * 3], load_volumes(data)[2].image.volume)


def test_broken_files_are_named_skipped_counted_and_not_tried_again(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    whole = (data / "CT_a_b_1.npz").read_bytes()
    (data / "CT_truncated.npz").write_bytes(whole[: len(whole) // 2])
    np.savez(data / "MR_without_gts.npz", imgs=np.ones((4, 4, 4), np.uint8))
    stored_in(tmp_path / "store", paths_of(data))
    monkeypatch.setattr("training.store.load_volume", None)
    assert len(volumes_of([data], store=tmp_path / "store")) == 3
    printed = capsys.readouterr()
    for name in ("CT_truncated", "MR_without_gts"):
        assert sum(name in line for line in printed.err.splitlines()) == 1
    assert "2 broken files skipped" in printed.out


def test_a_damaged_case_is_named(data: Path, tmp_path: Path):
    stored = stored_in(tmp_path / "store", paths_of(data))
    path = stored[0].labels.path
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(CaseError, match=r"labels.b2nd: cannot be read"):
        stored[0].labels[(slice(None),) * 3]


@pytest.mark.parametrize("content", [b"", b"no index\n", b'{"format": "segfm3d-store", "version": 99}\n'])
def test_another_s_index_is_refused(data: Path, tmp_path: Path, content: bytes):
    (tmp_path / INDEX).write_bytes(content)
    with pytest.raises(StoreError, match=INDEX):
        build(tmp_path, paths_of(data))


def test_what_is_being_removed_cannot_be_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A worker that outlives its killed builder renames its folder while the next builder removes it."""
    unfinished = tmp_path / CASES / f".x{SUFFIX}"
    unfinished.mkdir(parents=True)

    def rmtree(path: Path, ignore_errors: bool) -> None:
        with pytest.raises(FileNotFoundError):
            unfinished.rename(tmp_path / CASES / "key")

    monkeypatch.setattr("training.stored.shutil.rmtree", rmtree)
    remove_unfinished_cases(tmp_path)
    assert not (tmp_path / CASES / "key").exists()


def test_few_volumes_are_at_hand(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    stored = stored_in(tmp_path / "store", paths_of(data))
    monkeypatch.setattr("training.stored.OPEN", 2)
    first = stored[0]
    assert stored[0] is first
    assert [volume.name for volume in stored] == ["CT_a_b_1", "MR_a_b_1", "MR_c_d_2"]
    assert stored[0] is not first


def test_few_bytes_are_kept_decoded(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    stored = stored_in(tmp_path / "store", paths_of(data))
    first, second = stored[0], stored[1]
    assert first.labels[:1, :1, :1].numel() == 1  # It is decoded whole.
    monkeypatch.setattr("training.stored.KEPT", 1)
    assert stored[1] is second and stored[0] is first  # What is at hand stays until another case is asked for.
    assert stored[2] is not None
    assert stored[0] is not first


def test_what_does_not_fit_into_the_free_memory(data: Path, monkeypatch: pytest.MonkeyPatch):
    decoded = sum(volume.nbytes for volume in load_volumes(data))
    for free, fits in ((2 * decoded - 2, False), (2 * decoded + 2000, True)):
        monkeypatch.setattr("training.store.available_memory", lambda free=free: free)
        assert fits_in_memory(paths_of(data)) is fits
        assert not fits_in_memory(paths_of(data), processes=2)


def test_the_command_stores_and_says_what_cannot_be(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = str(tmp_path / "store")
    assert main([str(data), "--out", out, "--workers", "1"]) == 0
    assert "MB decoded" in capsys.readouterr().out
    (data / "CT_broken_x_1.npz").write_bytes(b"no case")
    assert main([str(data), "--out", out, "--workers", "1"]) == 1
    assert "CT_broken_x_1.npz" in capsys.readouterr().err
    assert main([str(tmp_path / "none"), "--out", out]) == 2
    said = capsys.readouterr().err
    assert "no such folder" in said and said.count("\n") == 1


def building(data: Path, out: Path) -> BaseProcess:
    process = multiprocessing.get_context("fork").Process(target=build, args=(out, paths_of(data), 2))
    process.start()
    return process


def test_two_that_build_at_once_wait_for_each_other(data: Path, tmp_path: Path):
    both = [building(data, tmp_path / "store") for _ in range(2)]
    for process in both:
        process.join()
        assert process.exitcode == 0
    assert len(opened(tmp_path / "store", paths_of(data))[0]) == 3
    assert len(list((tmp_path / "store" / CASES).iterdir())) == 3


@pytest.mark.slow
def test_killed_at_any_moment_the_next_one_goes_on(data: Path, config: TrainingConfig, tmp_path: Path):
    """20 times, and the store is as if nothing had been."""
    seed, killed = random.Random(0), 0
    for copy in range(157):
        shutil.copy2(data / "MR_a_b_1.npz", data / f"MR_more_{copy}.npz")
    out = tmp_path / "store"
    for _ in range(20):
        process = building(data, out)
        cases, wanted = out / CASES, seed.randint(0, 3)
        before = len(list(cases.glob("[!.]*")))
        deadline = time.monotonic() + 120
        while len(list(cases.glob("[!.]*"))) < before + wanted and process.is_alive():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(seed.uniform(0, 0.05))
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
        for folder in cases.glob("[!.]*"):
            assert {path.name for path in folder.iterdir()} == {"case.json", "image.b2nd", "labels.b2nd"}
            assert json.loads((folder / "case.json").read_text())["key"] == folder.name
    build(out, paths_of(data), 2)
    assert not list((out / CASES).glob(".*"))
    stored, broken = opened(out, paths_of(data))
    assert killed == 20 and len(stored) == len(paths_of(data)) and not broken
    assert_same_samples(load_volumes(data), stored, of_all_kinds(config), 6)


def test_data_too_large_for_memory_are_stored_beside_the_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setattr("training.__main__.fits_in_memory", lambda *_: False)
    out = tmp_path / "run"
    options = parser().parse_args(["--data", str(data), "--out", str(out)])
    assert [volume.name for volume in _volumes(options, torch.device("cpu"))] == ["CT_a_b_1", "MR_a_b_1", "MR_c_d_2"]
    assert f"too much for memory: stored in {out / 'store'}" in capsys.readouterr().out
    assert len(read_index(out / "store")) == 3


@pytest.mark.parametrize("shape", [(1, 1, 1), (10, 256, 216), (200, 3, 7), (300, 512, 512)])
def test_parts_of_a_volume_hold_about_as_many_voxels(shape: tuple[int, int, int]):
    part = part_of(shape, 64)
    assert all(1 <= n <= whole for n, whole in zip(part, shape))
    assert part == shape or 64**3 <= np.prod(part) <= 2 * 64**3
