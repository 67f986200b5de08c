"""Intensities to [0, 255] as the paper's section 3.2 says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from conversion.rescaling import parse_window, rescale
from conversion.volume import ConversionError, read_volume
from evaluation.modality import CT_WINDOWS


def hounsfield(*values: float) -> np.ndarray:
    return np.array(values, np.int16).reshape(1, 1, -1)


@pytest.mark.parametrize(
    ("window", "low", "high"),
    [(None, -160, 240), ("soft", -160, 240), ("lung", -910, 590), ("brain", 0, 80), ("bone", -500, 1300)],
)
def test_ct_windows_are_the_papers(window: str | None, low: int, high: int) -> None:
    values = hounsfield(-2000, low - 1, low, (low + high) // 2, high, high + 1, 3000)
    scaled, _ = rescale(values, "CT", window)
    assert scaled.dtype == np.uint8
    assert scaled.ravel().tolist() == [0, 0, 0, pytest.approx(127.5, abs=0.5), 255, 255, 255]


@pytest.mark.parametrize("window", CT_WINDOWS)
def test_a_named_window_reaches_from_0_to_255(window: str) -> None:
    width, level = CT_WINDOWS[window]
    scaled, _ = rescale(hounsfield(-9000, level - width / 2, level + width / 2, 9000), None, window)
    assert scaled.ravel().tolist() == [0, 0, 255, 255]


def test_a_window_of_ones_own() -> None:
    scaled, note = rescale(hounsfield(-1000, 0, 50, 100, 1000), None, "100,50")
    assert scaled.ravel().tolist() == [0, 0, pytest.approx(127.5, abs=0.5), 255, 255]
    assert "0 to 100" in note


def test_others_are_clipped_at_the_percentiles() -> None:
    volume = np.random.default_rng(0).gamma(2.0, 300.0, (20, 30, 40)).astype(np.float32)
    low, high = np.percentile(volume, (0.5, 99.5))
    scaled, _ = rescale(volume, "MR", None)
    expected = (np.clip(volume, low, high) - low) / (high - low) * 255
    assert np.abs(scaled - expected).max() <= 0.5 + 1e-3
    assert scaled.min() == 0 and scaled.max() == 255
    # One voxel in two hundred at either end.
    assert 0.004 < (volume >= high).mean() < 0.006


@pytest.mark.parametrize("modality", [None, "CT", "MR", "US"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_an_image_in_range_is_untouched(modality: str | None, dtype: type) -> None:
    volume = np.random.default_rng(0).integers(3, 200, (4, 5, 6)).astype(dtype)
    scaled, note = rescale(volume, modality, None)
    np.testing.assert_array_equal(scaled, volume)
    assert "left as they are" in note


def test_fractions_in_range_are_untouched() -> None:
    volume = np.random.default_rng(0).uniform(0, 255, (4, 5, 6))
    np.testing.assert_array_equal(rescale(volume, None, None)[0], volume)


def test_an_uptake_is_not_on_the_scale_of_grey_values() -> None:
    """Standardized uptake values lie in [0, 255] as well, and would all be nearly black."""
    uptake = np.random.default_rng(0).gamma(1.0, 2.0, (20, 30, 40)).astype(np.float32)
    scaled, _ = rescale(uptake, "PET", None)
    assert uptake.max() < 50 and scaled.max() == 255


def test_a_window_that_is_asked_for_is_applied_whatever_the_range() -> None:
    volume = np.arange(0, 201, dtype=np.uint8).reshape(3, 67, 1)
    assert rescale(volume, "MR", "percentile")[0].max() == 255
    assert rescale(volume, "MR", "soft")[0].min() == 102


def test_what_is_no_number_counts_as_the_least() -> None:
    volume = np.array([np.nan, -np.inf, np.inf, -50.0, 350.0]).reshape(1, 1, -1)
    scaled, note = rescale(volume, None, "400,150")
    assert scaled.ravel().tolist() == [0, 0, 0, 0, 255]
    assert "3 voxels" in note


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_what_is_no_number_in_a_file_counts_as_the_least_in_every_format(ending: str, tmp_path: Path) -> None:
    volume = np.array([np.nan, -1000.0, 0.0, 40.0], np.float32).reshape(1, 2, 2)
    sitk.WriteImage(sitk.GetImageFromArray(volume), str(tmp_path / f"a{ending}"))
    scaled, note = rescale(sitk.GetArrayFromImage(read_volume(tmp_path / f"a{ending}")), "CT", None)
    assert scaled.ravel().tolist() == [0, 0, 102, pytest.approx(127.5, abs=0.5)]
    assert "1 voxels that are no finite number count as the least" in note


@pytest.mark.parametrize("value", [-7, 0, 3000])
def test_a_constant_image(value: int) -> None:
    scaled, _ = rescale(np.full((3, 4, 5), value, np.int16), None, None)
    assert (scaled == 0).all()


@pytest.mark.parametrize("value", [7, 3000])
def test_a_constant_image_is_said(value: int) -> None:
    assert "nothing can be seen in it" in rescale(np.full((3, 4, 5), value, np.int16), None, None)[1]


class TestWhatIsLeft:
    ordinary = np.random.default_rng(0).normal(0, 400, (10, 20, 30)).clip(-1024, 2000).astype(np.int16)

    @pytest.mark.parametrize("window", [None, "lung", "bone", "percentile"])
    def test_nothing_is_said_of_ct(self, window: str | None) -> None:
        assert rescale(self.ordinary, "CT", window)[1].endswith("others are clipped")

    def test_ct_that_is_not_in_hounsfield_units(self) -> None:
        note = rescale(self.ordinary + 1024, "CT", None)[1]
        assert note.endswith("is this CT offset by 1024? Then give --window 400,1064"), note
        obeyed, said = rescale(self.ordinary + 1024, "CT", note.rpartition(" ")[2])
        assert said == "intensities 864 to 1264 become 0 to 255, others are clipped"
        np.testing.assert_array_equal(obeyed, rescale(self.ordinary, "CT", None)[0])

    def test_a_window_beside_the_values(self) -> None:
        note = rescale(self.ordinary // 20 + 3000, None, "soft")[1]
        assert "every voxel becomes 255" in note

    def test_an_uptake_in_a_window_for_ct(self) -> None:
        note = rescale(np.random.default_rng(0).gamma(1.0, 1.0, (10, 20, 30)).astype(np.float32), "CT", None)[1]
        assert "grey levels are left: is this the right window?" in note

    @pytest.mark.parametrize(("value", "said"), [(1, "left as they are"), (1000, "others are clipped")])
    @pytest.mark.parametrize("dtype", [np.int16, np.float32])
    def test_an_image_of_two_values_is_asked_whether_it_is_a_mask(self, value: int, said: str, dtype: type) -> None:
        note = rescale(np.eye(8, dtype=dtype)[None] * value, None, None)[1]
        assert note.endswith(f"{said}; it holds 2 values only: is it a mask, in place of the image?")

    def test_nothing_is_said_of_few_fractions_and_of_many_whole_numbers(self) -> None:
        assert "mask" not in rescale(np.eye(8)[None] * 0.5, None, None)[1]
        assert "mask" not in rescale(np.arange(9, dtype=np.uint8).reshape(1, 3, 3), None, None)[1]


def test_a_few_bright_voxels_are_not_lost() -> None:
    volume = np.zeros((10, 10, 10), np.int16)
    volume[5, 5, 5] = 1000
    assert rescale(volume, None, None)[0][5, 5, 5] == 255


def test_an_image_without_a_number() -> None:
    with pytest.raises(ConversionError, match="no finite value"):
        rescale(np.full((2, 2, 2), np.nan), None, None)


@pytest.mark.parametrize("text", ["no such", "400", "0,40", "-5,40", "400,40,1", "nan,40", ""])
def test_no_window(text: str) -> None:
    with pytest.raises(ConversionError, match=f"--window {text}: no such window"):
        parse_window(text)
