"""Images of synthetic labels: intensities and textures, then a model of a scanner or microscope."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from napari_slmsam2.training.synthetic.noise import Floats, smooth_noise


@dataclass(frozen=True, slots=True)
class Optics:
    """Parameters of the imaging. Lengths in pixels, intensities in units of the image's range.

    Attributes
    ----------
    blur, blur_along : float
        Standard deviation of the point spread, in the slice (pixels) and along the stack (slices).
    noise : float
        Standard deviation of the noise at mid range.
    noise_kind : str
        ``gaussian``, ``poisson``, ``rician`` or ``speckle``.
    grain : float
        Standard deviation of the blur that correlates the noise; 0 is white noise.
    bias, gamma, flicker, stripes : float
        Log amplitude of the smooth bias field, exponent, amplitude of the change of gain and
        offset from slice to slice, amplitude of the stripes.
    corrupted, inverted : bool
        Whether one slice is spoilt; whether dark and bright are exchanged.
    """

    blur: float
    blur_along: float
    noise: float
    noise_kind: str
    grain: float
    bias: float
    gamma: float
    flicker: float
    stripes: float
    corrupted: bool
    inverted: bool


@dataclass(slots=True, eq=False)
class Appearance:
    """Appearance of the labels before imaging.

    Attributes
    ----------
    means, texture : ndarray of float32, shape (n_labels,)
        Intensity, and standard deviation of the texture, of every label.
    grain : float
        Size of the coarse part of the texture, pixels.
    membrane, membrane_width : float
        Intensity (signed; 0 is none) and width in pixels of the borders between labels.
    spots, spot_size : float
        Intensity (signed; 0 is none) and size in pixels of organelle-like spots in the objects.
    """

    means: Floats
    texture: Floats
    grain: float
    membrane: float = 0.0
    membrane_width: float = 1.0
    spots: float = 0.0
    spot_size: float = 5.0

    def extend(self, *sources: int) -> None:
        """Append labels with the appearance of the labels ``sources``."""
        self.means = np.concatenate([self.means, self.means[list(sources)]])
        self.texture = np.concatenate([self.texture, self.texture[list(sources)]])


def draw_optics(rng: np.random.Generator, look: str) -> Optics:
    """Draw the imaging parameters of a look (anatomy, blobs, cells, tubes or lesion)."""
    kinds = ("gaussian", "poisson", "rician", "speckle")
    shares = {"blobs": (0.25, 0.7, 0.0, 0.05), "cells": (0.55, 0.45, 0.0, 0.0)}
    blur, blur_along = rng.uniform(0.4, 1.5), 0.0
    if look == "blobs":
        blur_along = rng.uniform(0.0, 1.5)
    elif look == "lesion" and rng.uniform() < 0.4:
        # Emission tomography: low resolution.
        blur, blur_along = rng.uniform(1.5, 3.5), rng.uniform(0.4, 1.2)
    return Optics(
        blur=blur,
        blur_along=blur_along,
        noise=math.exp(rng.uniform(math.log(0.008), math.log(0.09))),
        noise_kind=str(rng.choice(kinds, p=shares.get(look, (0.5, 0.1, 0.25, 0.15)))),
        grain=rng.uniform(0.5, 1.5) if rng.uniform() < 0.4 else 0.0,
        bias=abs(rng.normal(0.0, 0.06 if look == "lesion" else 0.12)),
        gamma=math.exp(rng.normal(0.0, 0.25)),
        flicker=rng.uniform(0.01, 0.1) if rng.uniform() < 0.3 else 0.0,
        stripes=rng.uniform(0.02, 0.1) if rng.uniform() < 0.05 else 0.0,
        corrupted=bool(rng.uniform() < 0.05),
        inverted=bool(rng.uniform() < (0.15 if look == "blobs" else 0.5)),
    )


def draw_contrast(rng: np.random.Generator) -> float:
    """Draw a contrast in standard deviations: weak 0.2, medium 0.5, strong 0.3 of the draws."""
    low, high = ((0.3, 1.0), (1.0, 3.0), (3.0, 7.0))[rng.choice(3, p=(0.2, 0.5, 0.3))]
    return float(rng.uniform(low, high))


def draw_appearance(
    rng: np.random.Generator, look: str, count: int, noise: float, packed: bool = False
) -> tuple[Appearance, float]:
    """Draw the appearance of the labels of a scene.

    Parameters
    ----------
    rng : numpy.random.Generator
    look : str
        anatomy, blobs, cells, tubes or lesion.
    count : int
        Number of labels, zero included.
    noise : float
        Standard deviation of the noise that the image will have.
    packed : bool
        Whether objects leave no room for a background, so that only membranes part them.

    Returns
    -------
    Appearance
    float
        Standard deviation inside a label, noise and texture, that contrasts are measured by.
    """
    texture = rng.uniform(0.0, 0.04 if look == "lesion" else 0.08)
    deviation = math.hypot(texture, noise)
    textures = (texture * rng.uniform(0.4, 1.6, count)).astype(np.float32)
    appearance = Appearance(_tissue_means(rng, count), textures, rng.uniform(3.0, 10.0))
    step = draw_contrast(rng) * deviation
    if look == "blobs":
        _one_kind(rng, appearance, max(step, deviation), 0.15)
    elif look == "cells":
        _one_kind(rng, appearance, rng.uniform(-0.3, 0.3), 0.0 if rng.uniform() < 0.5 else 0.05)
        _enclose(rng, appearance, max(step, 1.5 * deviation, 0.1))
    elif look == "tubes":
        _one_kind(rng, appearance, max(step, deviation), rng.choice([0.02, 0.1]))
        if packed or rng.uniform() < 0.4:
            _enclose(rng, appearance, max(step, 1.5 * deviation, 0.1))
    elif look == "lesion":
        quiet = rng.uniform(0.02, 0.1)
        appearance.means[1:] = rng.uniform(0.2, 0.6) + rng.normal(0, quiet, count - 1)
        appearance.means[0] = rng.uniform(0.0, 0.1)
    return appearance, deviation


def _tissue_means(rng: np.random.Generator, count: int) -> Floats:
    """Intensities over the whole range, or similar soft tissues with some air and bone."""
    means = rng.uniform(0.05, 0.95, count)
    if rng.uniform() < 0.5:
        soft = rng.uniform(size=count) < 0.75
        means[soft] = rng.uniform(0.35, 0.65) + rng.normal(0.0, 0.08, int(soft.sum()))
    means[0] = rng.choice([0.0, 0.05, rng.uniform(0, 1)])
    return np.clip(means, 0.0, 1.0).astype(np.float32)


def _one_kind(rng: np.random.Generator, look: Appearance, step: float, spread: float) -> None:
    """Objects of one intensity, ``step`` brighter than their surround."""
    base = rng.uniform(0.03, 0.3)
    look.means[0] = base
    spreads = np.exp(rng.normal(0.0, spread, len(look.means) - 1))
    look.means[1:] = np.clip(base + step * spreads, 0.0, 1.0)


def _enclose(rng: np.random.Generator, look: Appearance, step: float) -> None:
    """Membranes and organelles, as in electron microscopy."""
    look.membrane_width = rng.uniform(1.0, 3.0)
    bright = rng.uniform() < 0.5
    look.membrane = step if bright else -step
    shift = np.float32((0.2 if bright else 0.8) - look.means[1:].mean())
    look.means[1:] = np.clip(look.means[1:] + shift, 0.05, 0.95)
    if not bright:
        look.means[0] = np.clip(look.means[0] + shift, 0.0, 1.0)
    if rng.uniform() < 0.5:
        look.spots = math.copysign(rng.uniform(0.3, 1.2) * step, look.membrane)
        look.spot_size = rng.uniform(3.0, 9.0)


def paint(
    rng: np.random.Generator, labels: npt.NDArray[np.integer], look: Appearance, along: float
) -> Floats:
    """Compute the intensity of every voxel.

    Parameters
    ----------
    rng : numpy.random.Generator
    labels : ndarray of int, shape (Z, H, W)
        Indices into the arrays of ``look``.
    look : Appearance
    along : float
        Sub-slices per pixel, so that textures are as long along the stack as in a slice.

    Returns
    -------
    ndarray of float32, shape (Z, H, W)
        About 0..1.
    """
    image = look.means[labels]
    coarse = smooth_noise(rng, labels.shape, (look.grain * along, look.grain, look.grain))
    coarse += 0.7 * smooth_noise(rng, labels.shape, (2.0 * along, 2.0, 2.0))
    coarse *= look.texture[labels]
    image += 0.82 * coarse
    if look.spots:
        size = look.spot_size
        spots = smooth_noise(rng, labels.shape, (size * along, size, size))
        spots = np.clip(4 * (spots - 1.4), 0, 1)
        image += np.float32(look.spots) * np.where(labels > 0, spots, 0)
    if look.membrane:
        image += np.float32(look.membrane) * _borders(labels, look.membrane_width)
    return image


def _borders(labels: npt.NDArray[np.integer], width: float) -> Floats:
    """One on the borders between labels in a slice, falling to zero over half the width."""
    edge = np.zeros(labels.shape, np.float32)
    edge[:, 1:] = labels[:, 1:] != labels[:, :-1]
    np.maximum(edge[:, :, 1:], labels[:, :, 1:] != labels[:, :, :-1], out=edge[:, :, 1:])
    # A border that is nearly parallel to the slice appears wide.
    np.maximum(edge[1:], np.float32(0.7) * (labels[1:] != labels[:-1]), out=edge[1:])
    sigma = 0.4 * width
    blurred = _blur(edge, (0.0, sigma, sigma))
    return np.minimum(blurred * np.float32(math.sqrt(2 * math.pi) * sigma), 1)


def _blur(image: Floats, sigmas: tuple[float, float, float]) -> Floats:
    for axis, sigma in enumerate(sigmas):
        if sigma > 0.2:
            image = ndimage.gaussian_filter1d(image, sigma, axis, mode="nearest", truncate=3.0)
    return image


def acquire(rng: np.random.Generator, scene: Floats, fine: int, optics: Optics) -> Floats:
    """Simulate imaging: thick slices, blur, bias field, noise, intensity window.

    Parameters
    ----------
    rng : numpy.random.Generator
    scene : ndarray of float32, shape (D * fine, H, W)
    fine : int
        Sub-slices that one slice averages.
    optics : Optics

    Returns
    -------
    ndarray of float32, shape (D, H, W)
        0..1; the limits are the percentiles 0.5 and 99.5.
    """
    depth, shape = len(scene) // fine, scene.shape[1:]
    image = scene.reshape(depth, fine, *shape).mean(axis=1)
    image = _blur(image, (optics.blur_along, optics.blur, optics.blur))
    # Limit the disturbances relative to the contrast of a faint scene.
    signal = float(image.std())
    cells = (depth / 1.5, shape[0] / 2.5, shape[1] / 2.5)
    bias = min(optics.bias, signal / max(float(image.mean()), 0.1))
    image *= np.exp(np.float32(bias) * smooth_noise(rng, image.shape, cells))
    image = np.clip(image, 0.0, 2.0) ** np.float32(optics.gamma)
    if optics.flicker:
        size = min(optics.flicker, 0.8 * signal)
        gain, offset = rng.normal(0.0, size, (2, depth, 1, 1)).astype(np.float32)
        image = image * (1 + gain) + 0.5 * offset
    if optics.corrupted:
        victim = int(rng.integers(depth))
        image[victim] = image[victim] * np.float32(rng.uniform(0.1, 0.6)) + rng.uniform(0.0, 0.5)
    if optics.stripes:
        wave = np.sin(np.arange(shape[0]) * rng.uniform(0.3, 3.0) + rng.uniform(0, 6.28))
        image += (min(optics.stripes, 0.8 * signal) * wave).astype(np.float32)[:, None]
    noise = max(min(optics.noise, 0.8 * signal), 1e-3)
    image = _with_noise(rng, image, replace(optics, noise=noise))
    return window(-image if optics.inverted else image)


def _with_noise(rng: np.random.Generator, image: Floats, optics: Optics) -> Floats:
    sigma = np.float32(optics.noise)
    if optics.noise_kind == "poisson":
        # Photons at intensity 0.5, so that the noise there has the requested level.
        counts = 0.5 / optics.noise**2
        return (rng.poisson(np.maximum(image, 0.0) * counts) / counts).astype(np.float32)
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    if optics.grain:
        noise = _blur(noise, (0.0, optics.grain, optics.grain))
        # Restore the noise level after the blur, lower because correlated noise disturbs more.
        noise *= np.float32(0.7 / noise.std())
    if optics.noise_kind == "speckle":
        return image * (1 + 2 * sigma * noise)
    if optics.noise_kind == "rician":
        other = rng.standard_normal(image.shape, dtype=np.float32)
        return np.hypot(image + sigma * noise, sigma * other)
    return image + sigma * noise


def window(image: Floats) -> Floats:
    """Scale to 0..1 between the percentiles 0.5 and 99.5 of a whole stack."""
    low, high = np.percentile(image.ravel()[::3], (0.5, 99.5))
    if low == high:
        low, high = float(image.min()), float(image.max())
    if low == high:
        return np.zeros_like(image)
    return np.clip((image - np.float32(low)) / np.float32(high - low), 0, 1)
