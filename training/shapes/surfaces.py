"""Thin surfaces: shells, folded sheets, plates, rings and what spans them."""

from __future__ import annotations

import math

import numpy as np
import torch

from training.noise import smooth_noise
from training.shapes.fields import (
    Scene,
    Shape,
    coordinates,
    distance_to_zero,
    log_uniform,
    profile,
    scene_of,
    thickness,
)


def shell(shape: Shape, random: np.random.Generator) -> Scene:
    """A hollow closed surface of 1 to 4 voxels, complete or with an opening; what it holds may differ."""
    (u, _, _), half = coordinates(shape, random)
    distance = distance_to_zero(profile(shape, random, float(random.uniform(0, 0.25))))
    width = thickness(random)
    mask = distance.abs() <= width / 2
    inside = distance > width / 2
    if random.random() < 0.5:
        mask = mask & (u < half * random.uniform(-0.3, 0.5))
    labels = mask.to(torch.uint8)
    if random.random() < 0.6:
        labels[inside & ~mask] = 2
    return scene_of(mask, labels)


def sheet(shape: Shape, random: np.random.Generator) -> Scene:
    """A thin folded sheet, or several: a level set of noise, in a part of the patch. Cortex, folia, membranes."""
    cells = int(random.integers(3, 9))
    noise = smooth_noise(shape, cells, random)
    if random.random() < 0.4:  # Folds along one direction, as leaves lie.
        (u, _, _), half = coordinates(shape, random)
        noise = torch.sin(u * (float(random.uniform(2, 5)) * math.pi / half) + noise * 1.5)
    distance = distance_to_zero(noise)
    within = profile(shape, random, float(random.uniform(0, 0.2))) > 0
    width = min(thickness(random), 0.06 * float(np.mean(shape)))
    mask = (distance.abs() <= width / 2) & within
    labels = mask.to(torch.uint8)
    if random.random() < 0.6:  # The two sides of the sheet.
        labels[(distance > width / 2) & within] = 2
    if random.random() < 0.3:
        labels[(distance < -width / 2) & within] = 3
    return scene_of(mask, labels)


def plate(shape: Shape, random: np.random.Generator) -> Scene:
    """A thin plate, a little bent; others may lie parallel to it. Cartilage, flat bones, septa."""
    (u, v, w), half = coordinates(shape, random)
    bend = float(random.uniform(-0.5, 0.5)) / half
    height = w + bend * u.square() + smooth_noise(shape, 3, random) * (half * float(random.uniform(0, 0.12)))
    a, b = half * random.uniform(0.4, 0.9, 2)
    within = (u / a).square() + (v / b).square() <= 1
    width = thickness(random)
    mask = within & (height.abs() <= width / 2)
    labels = mask.to(torch.uint8)
    if random.random() < 0.4:
        gap = width + float(random.uniform(2, max(0.25 * half, 3)))
        labels[within & ((height.abs() - gap).abs() <= width / 2)] = 1
    return scene_of(mask, labels)


def ring(shape: Shape, random: np.random.Generator) -> Scene:
    """A ring, whole or in part, and at times cusps that span it, as in a valve."""
    (u, v, w), half = coordinates(shape, random)
    wide = half * float(random.uniform(0.4, 0.85))
    narrow = wide * float(random.uniform(0.5, 1.0))
    radius = log_uniform(0.8, max(0.15 * half, 1.6), random)
    wave = smooth_noise(shape, 3, random) * (half * float(random.uniform(0, 0.1)))
    out = ((u / wide).square() + (v / narrow).square()).sqrt_()
    mean = (wide + narrow) / 2
    height = w + wave
    mask = ((out - 1) * mean).square() + height.square() <= radius**2
    chance, angle = random.random(), torch.atan2(v, u)
    if chance < 0.2:
        mask &= angle < float(random.uniform(0, 2.5))
    elif chance < 0.6:
        cusps = int(random.integers(2, 4))
        dome = half * float(random.uniform(-0.5, 0.5)) * (1 - out.square())
        slit = torch.cos(angle * (cusps / 2)).abs() * out * mean > float(random.uniform(0.5, 3))
        slope = math.sqrt(1 + (dome.abs().max().item() / mean) ** 2)
        mask |= (out < 1) & slit & ((height - dome).abs() <= slope * float(random.uniform(0.6, 1.2)))
    return scene_of(mask)
