"""Where the network looks: what is cropped comes back to where it was, and nothing that the user said falls outside."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from inference.case import Click, ObjectPrompts
from inference.geometry import Box, Voxel
from inference.placement import central_third, window_for
from inference.window import LEAST_ZOOM, MARGIN, Window, resampling

PATCHES = st.tuples(*[st.sampled_from([8, 12, 16])] * 3)


def boxes(lowest: int, highest: int, longest: int) -> st.SearchStrategy[Box]:
    """Boxes of sides of at most ``longest`` that begin between the two coordinates."""
    corner = st.tuples(*[st.integers(lowest, highest)] * 3)
    sides = st.tuples(*[st.integers(0, longest - 1)] * 3)
    return st.builds(lambda c, s: Box(c, tuple(a + b for a, b in zip(c, s))), corner, sides)


def voxels(shape: Voxel) -> st.SearchStrategy[Voxel]:
    return st.tuples(*[st.integers(0, n - 1) for n in shape])


def pasted(
    window: Window, patch: torch.Tensor, shape: Voxel, wanted: Box | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The patch's values in an image, and how often each voxel of it was written."""
    values, count = torch.zeros(shape), torch.zeros(shape, dtype=torch.int64)
    for where, slab in window.paste(patch, wanted or Box.of(shape)):
        values[where.slices] = slab
        count[where.slices] += 1
    return values, count


def mask_of(box: Box | None, shape: Voxel) -> torch.Tensor:
    mask = torch.zeros(shape, dtype=torch.bool)
    if box is not None:
        mask[box.slices] = True
    return mask


class TestPastingBack:
    """A crop pasted back through its own window is the original, for windows inside, across faces and outside."""

    SHAPE = (24, 40, 33)

    @given(patch=PATCHES, region=boxes(-12, 44, 4), keep=st.booleans())
    def test_exactly_where_the_zoom_is_1(self, patch: Voxel, region: Box, keep: bool) -> None:
        image = torch.rand(self.SHAPE, generator=torch.Generator().manual_seed(0))
        window = Window.around(region, patch, keep)
        assume(window.size == patch)
        values, count = pasted(window, window.crop(image), self.SHAPE)
        inside = mask_of(window.box.clipped(self.SHAPE), self.SHAPE)
        assert torch.equal(count, inside.long()), "each voxel of the window once, no other"
        assert torch.equal(values[inside], image[inside])

    @given(patch=PATCHES, region=boxes(-8, 24, 50), keep=st.booleans(), axis=st.integers(0, 2))
    def test_closely_where_the_window_is_resampled(self, patch: Voxel, region: Box, keep: bool, axis: int) -> None:
        """A ramp, so that the error is a displacement in voxels; not where zeros bleed in from beyond the image."""
        image = torch.arange(self.SHAPE[axis]).view([-1 if a == axis else 1 for a in range(3)]).expand(self.SHAPE)
        window = Window.around(region, patch, keep)
        values, count = pasted(window, window.crop(image), self.SHAPE)
        inside = window.box.clipped(self.SHAPE)
        assert torch.equal(count, mask_of(inside, self.SHAPE).long())
        assume(inside is not None)
        rim = [math.ceil(2 * n / p) if n > p else int(n < p) for n, p in zip(window.size, window.patch)]
        lower = tuple(v + r for v, r in zip(inside.lower, rim))
        upper = tuple(v - r for v, r in zip(inside.upper, rim))
        assume(all(a <= b for a, b in zip(lower, upper)))
        kept = Box(lower, upper).slices
        torch.testing.assert_close(values[kept], image[kept].float(), atol=0.25, rtol=0)

    @given(patch=PATCHES, region=boxes(-30, 40, 50), keep=st.booleans())
    def test_only_the_support_is_read(self, patch: Voxel, region: Box, keep: bool) -> None:
        support = Box((3, 5, 7), (20, 30, 25))
        image = torch.rand(self.SHAPE, generator=torch.Generator().manual_seed(0))
        blank = torch.where(mask_of(support, self.SHAPE), image * 2 - 1, torch.zeros(()))
        window = Window.around(region, patch, keep)
        image[~mask_of(support, self.SHAPE)] = torch.nan
        torch.testing.assert_close(window.crop(image, support, 2, -1), window.crop(blank), atol=1e-5, rtol=1e-4)

    @given(patch=PATCHES, region=boxes(-8, 24, 50), keep=st.booleans(), wanted=boxes(0, 23, 40))
    def test_only_what_is_wanted_is_given(self, patch: Voxel, region: Box, keep: bool, wanted: Box) -> None:
        wanted = wanted.clipped(self.SHAPE)
        window = Window.around(region, patch, keep)
        content = torch.rand(patch, generator=torch.Generator().manual_seed(0))
        values, count = pasted(window, content, self.SHAPE, wanted)
        everything, _ = pasted(window, content, self.SHAPE)
        inside = mask_of(window.box.intersection(wanted), self.SHAPE)
        assert torch.equal(count, inside.long())
        torch.testing.assert_close(values[inside], everything[inside])

    def test_slabs_are_seamless(self) -> None:
        image = torch.linspace(0, 1, 100).view(-1, 1, 1).expand(100, 4, 4)
        window = Window((0, 0, 0), (100, 4, 4), (50, 4, 4))
        values, count = pasted(window, window.crop(image), (100, 4, 4))
        assert bool((count == 1).all())
        torch.testing.assert_close(values[4:-4], image[4:-4], atol=1e-5, rtol=0)

    def test_a_window_beside_the_image_is_zero_and_pastes_nothing(self) -> None:
        window = Window((100, 0, 0), (16, 16, 16), (8, 8, 8))
        assert not window.crop(torch.ones(self.SHAPE)).any()
        assert list(window.paste(torch.ones(8, 8, 8), Box.of(self.SHAPE))) == []


class TestMasks:
    SHAPE = (24, 40, 33)

    @given(patch=PATCHES, region=boxes(0, 20, 60), voxel=voxels(SHAPE), keep=st.booleans())
    def test_no_voxel_of_a_mask_is_lost(self, patch: Voxel, region: Box, voxel: Voxel, keep: bool) -> None:
        window = Window.around(region, patch, keep)
        assume(window.box.contains(voxel))
        labels = torch.zeros(self.SHAPE, dtype=torch.uint8)
        labels[voxel] = 7
        crop = window.crop_label(labels, 7)
        assert crop.max() > 0
        assert not window.crop_label(labels, 6).any()

    @given(patch=PATCHES, region=boxes(0, 20, 60), plane=st.integers(0, SHAPE[0] - 1), keep=st.booleans())
    def test_a_mask_of_one_slice_keeps_its_mass(self, patch: Voxel, region: Box, plane: int, keep: bool) -> None:
        window = Window.around(region, patch, keep)
        inner = math.ceil(window.size[0] / patch[0])
        assume(window.start[0] + inner <= plane < window.start[0] + window.size[0] - inner)
        labels = torch.zeros(self.SHAPE, dtype=torch.uint8)
        labels[plane] = 1
        weight_along_z = window.crop_label(labels, 1).amax(dim=(1, 2)).sum() * window.size[0] / patch[0]
        assert 0.7 < weight_along_z < 1.3

    @given(patch=PATCHES, region=boxes(-30, 40, 50), keep=st.booleans())
    def test_a_label_is_cropped_as_its_mask_is(self, patch: Voxel, region: Box, keep: bool) -> None:
        labels = torch.randint(0, 4, self.SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        window = Window.around(region, patch, keep)
        torch.testing.assert_close(window.crop_label(labels, 2), window.crop(labels == 2))


class TestSize:
    @given(patch=PATCHES, region=boxes(-30, 40, 50), keep=st.booleans())
    def test_the_region_and_its_margin_fit_and_are_centred(self, patch: Voxel, region: Box, keep: bool) -> None:
        window = Window.around(region, patch, keep)
        for axis in range(3):
            before = region.lower[axis] - window.box.lower[axis]
            after = window.box.upper[axis] - region.upper[axis]
            assert abs(before - after) <= 1
            assert before + after >= patch[axis] * MARGIN - 1e-6
            assert window.size[axis] >= patch[axis] * (1 if keep else LEAST_ZOOM)

    @given(patch=PATCHES, region=boxes(-30, 40, 50))
    def test_equations_11_and_12(self, patch: Voxel, region: Box) -> None:
        """In integers: size = ceil(max over the axes of (extent + patch / 3) / patch, or 1, times patch)."""
        numerator, denominator = max(
            ((3 * n + p, 3 * p) for n, p in zip(region.size, patch)), key=lambda z: z[0] / z[1]
        )
        zoomed = [max(-(-numerator * p // denominator), p) for p in patch]
        assert Window.around(region, patch, isotropic_zoom=True).size == tuple(zoomed)

    @given(patch=PATCHES, region=boxes(-30, 40, 50))
    def test_without_proportions_each_axis_has_its_own_zoom(self, patch: Voxel, region: Box) -> None:
        """An axis with few voxels is magnified, at most twice, until they fill a third of the patch."""
        sizes = [max(n + -(-p // 3), min(max(3 * n, p // 2), p)) for n, p in zip(region.size, patch)]
        assert Window.around(region, patch, isotropic_zoom=False).size == tuple(sizes)

    @given(patch=PATCHES, region=boxes(-30, 40, 50))
    def test_what_is_larger_than_the_patch_has_outgrown_it(self, patch: Voxel, region: Box) -> None:
        larger = any(n > p for n, p in zip(region.size, patch))
        fits = all(n + math.ceil(p * MARGIN) <= p * (1 + MARGIN) for n, p in zip(region.size, patch))
        assume(larger or fits)
        assert Window.around(region, patch, isotropic_zoom=False).exceeds_patch == larger

    def test_a_box_of_two_thirds_of_the_patch_is_not_zoomed(self) -> None:
        window = Window.around(Box((10, 10, 10), (137, 137, 137)), (192, 192, 192), isotropic_zoom=True)
        assert window == Window((-22, -22, -22), (192, 192, 192), (192, 192, 192))

    @given(patch=PATCHES, region=boxes(-30, 40, 50), keep=st.booleans(), data=st.data())
    def test_a_voxel_inside_lies_in_the_patch(self, patch: Voxel, region: Box, keep: bool, data: st.DataObject) -> None:
        window = Window.around(region, patch, keep)
        voxel = tuple(data.draw(st.integers(a, b)) for a, b in zip(window.box.lower, window.box.upper))
        assert all(-0.5 <= v <= p - 0.5 for v, p in zip(window.to_patch(voxel), patch))


class TestWindowForAnObject:
    SHAPE = (30, 80, 70)
    CLICKS = st.lists(st.builds(Click, voxels(SHAPE), st.booleans()), max_size=6).map(tuple)
    INSIDE = boxes(0, 29, 60).map(lambda box: box.clipped((30, 80, 70)))

    @given(patch=PATCHES, box=st.none() | INSIDE, clicks=CLICKS, previous=st.none() | INSIDE, keep=st.booleans())
    def test_no_click_lies_outside(
        self, patch: Voxel, box: Box | None, clicks: tuple[Click, ...], previous: Box | None, keep: bool
    ) -> None:
        window = window_for(ObjectPrompts(1, box, clicks), self.SHAPE, patch, keep, previous)
        assert all(window.box.contains(click.position) for click in clicks)
        if box is not None:
            assert window.box.contains(box.lower)
            assert window.box.contains(box.upper)

    def test_a_click_far_away_does_not_drop_one_at_the_other_side(self) -> None:
        """The window moves towards a click outside it, and away from what lay at its other rim."""
        clicks = (Click((10, 10, 19), False), Click((10, 10, 46), True))
        prompts = ObjectPrompts(1, Box((10, 10, 30), (10, 10, 30)), clicks)
        assert not Window.around(Box((10, 10, 30), (10, 10, 46)), (24, 24, 24), True).box.contains((10, 10, 19))
        window = window_for(prompts, self.SHAPE, (24, 24, 24), True)
        assert all(window.box.contains(click.position) for click in clicks)

    @given(box=INSIDE, clicks=CLICKS, keep=st.booleans())
    def test_a_box_is_the_centre_while_its_window_holds_the_clicks(
        self, box: Box, clicks: tuple[Click, ...], keep: bool
    ) -> None:
        alone = Window.around(box, (16, 16, 16), keep)
        held = tuple(click for click in clicks if alone.box.contains(click.position))
        assert window_for(ObjectPrompts(1, box, held), self.SHAPE, (16, 16, 16), keep) == alone

    @given(clicks=CLICKS, previous=INSIDE, keep=st.booleans())
    def test_without_a_box_the_previous_mask_is_held_too(
        self, clicks: tuple[Click, ...], previous: Box, keep: bool
    ) -> None:
        window = window_for(ObjectPrompts(1, clicks=clicks), self.SHAPE, (16, 16, 16), keep, previous)
        assert window.box.contains(previous.lower)
        assert window.box.contains(previous.upper)

    def test_with_nothing_known_it_is_the_central_third(self) -> None:
        window = window_for(ObjectPrompts(1), (30, 60, 90), (8, 8, 8), True)
        assert window == Window.around(Box((10, 20, 30), (20, 40, 60)), (8, 8, 8), True)

    @given(shape=st.tuples(*[st.integers(1, 50)] * 3))
    def test_the_central_third_lies_in_the_image(self, shape: Voxel) -> None:
        assert central_third(shape).clipped(shape) == central_third(shape)


class TestResampling:
    LENGTHS = st.integers(1, 80)

    @given(inputs=LENGTHS, outputs=LENGTHS)
    def test_rows_are_averages(self, inputs: int, outputs: int) -> None:
        weights = resampling(inputs, outputs)
        assert weights.shape == (outputs, inputs)
        assert bool((weights >= 0).all())
        torch.testing.assert_close(weights.sum(dim=1), torch.ones(outputs))

    @given(length=LENGTHS)
    def test_equal_lengths_change_nothing(self, length: int) -> None:
        assert torch.equal(resampling(length, length), torch.eye(length))

    @given(inputs=LENGTHS, outputs=LENGTHS)
    def test_it_is_antialiased_linear_interpolation(self, inputs: int, outputs: int) -> None:
        line = torch.rand(inputs, generator=torch.Generator().manual_seed(inputs))
        expected = torch.nn.functional.interpolate(
            line.view(1, 1, 1, -1), size=(1, outputs), mode="bilinear", antialias=True
        )
        torch.testing.assert_close(resampling(inputs, outputs) @ line, expected.view(-1), atol=1e-5, rtol=1e-4)

    @pytest.mark.parametrize(("inputs", "outputs"), [(100, 10), (97, 16), (16, 5)])
    def test_no_input_is_left_out_on_the_way_down(self, inputs: int, outputs: int) -> None:
        assert bool((resampling(inputs, outputs).sum(dim=0) > 0).all())


def test_a_patch_resampled_to_another_window_is_what_it_would_be_there() -> None:
    shape, patch = (70, 80, 90), (16, 16, 16)
    window, other = Window((5, 10, 3), (40, 44, 48), patch), Window((20, 22, 9), patch, patch)
    content = torch.randn(patch, generator=torch.Generator().manual_seed(0))
    dense, _ = pasted(window, content, shape)
    torch.testing.assert_close(window.resampled_to(content, other), other.crop(dense), atol=1e-4, rtol=1e-4)
    assert not window.resampled_to(content, Window((200, 0, 0), patch, patch)).any()
