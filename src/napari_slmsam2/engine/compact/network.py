"""A compact short-long-memory network on an object-centred crop.

After SLM-SAM 2 (Chen et al., arXiv:2505.01854) and AOT (Yang et al., arXiv:2106.02638), reduced
to what volumes need: the short-term read-out is local and aligned by optical flow, the long-term
one attends to the annotated slices, each has its own parameters, and a fuser joins them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from napari_slmsam2.core.config import CompactConfig
from napari_slmsam2.engine.compact.features import MAX_LOGIT, N_POSITION_FEATURES, SEED_AREA
from napari_slmsam2.engine.compact.intensity_prior import log_ratios, lookup, smoothed
from napari_slmsam2.engine.compact.presence_gru import WIDTH as PRESENCE_WIDTH
from napari_slmsam2.engine.compact.presence_gru import SweepPresence
from napari_slmsam2.engine.features.batches import convolve_images, multiply_rows

_POSITION_WIDTH, _HEADS_WIDTH = 64, 96
_EMBEDDING_WIDTHS = (_POSITION_WIDTH, _HEADS_WIDTH, PRESENCE_WIDTH, 1)

STRUCTURE_GAIN = 10.0
"""Factor on the class embeddings, which few training steps reach: they learn that much faster."""

FEEDBACK_LIMIT = 4.0
"""Largest correction of a mask logit that is propagated."""


@dataclass(frozen=True, slots=True, eq=False)
class CompactInput:
    """One slice of ``B`` objects, in the crops around them.

    Attributes
    ----------
    images : Tensor, shape (B, 3, N, N)
        The slice before in the direction of the sweep, the slice itself and the next one; about 0
        to 1 over the object and its surround on the seed.
    aligned : Tensor, shape (B, 1, N, N)
        The slice before, warped by the optical flow onto this one.
    warped : Tensor, shape (B, 1, N, N)
        Mask logits that the flow has warped here from the seed, slice by slice.
    prior : Tensor, shape (B, 1, N, N)
        Mask logits interpolated from the annotated slices; 0 where nothing can be interpolated.
    positions : Tensor, shape (B, 9)
        See `napari_slmsam2.engine.compact.features.in_crops`.
    labels : Tensor of int, shape (B,)
        Label values, for a network that was adapted to some structures.
    """

    images: Tensor
    aligned: Tensor
    warped: Tensor
    prior: Tensor
    positions: Tensor
    labels: Tensor


class SeedMemory(NamedTuple):
    """The annotated slices of ``B`` objects, as the long-term memory keeps them.

    Attributes
    ----------
    key, value : Tensor, shape (B, T, memory_dim)
        Tokens of all seeds of an object.
    known : Tensor of bool, shape (B, T)
        False for the tokens of missing seeds.
    ratios : Tensor, shape (B, 2, 32)
        Log likelihood ratio of object against surround per bin of intensity, of the image and of
        the smoothed image, weighted by how well they separate both.
    """

    key: Tensor
    value: Tensor
    known: Tensor
    ratios: Tensor

    def first(self, n: int, of: int) -> SeedMemory:
        """The first ``n`` seeds of every object, of ``of`` that the memory has room for."""
        tokens = self.key.shape[1] // of * n
        key, value, known = (x[:, :tokens] for x in self[:3])
        return SeedMemory(key, value, known, self.ratios)


class CompactOutput(NamedTuple):
    """Output of the network for ``B`` objects.

    Attributes
    ----------
    logits : Tensor, shape (B, N, N)
    presence : Tensor, shape (B,)
        Logit of the object being on the slice.
    iou : Tensor, shape (B,)
        Logit of the intersection over union with the true mask.
    """

    logits: Tensor
    presence: Tensor
    iou: Tensor


class CompactNetwork(nn.Module):
    """Mask, presence and expected overlap on the next slice.

    Parameters
    ----------
    config : CompactConfig
    """

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        self.config = config
        a, b, c, d = config.widths
        self.seed_encoder = _SeedEncoder(config)
        self.image_stem = _conv(3, a)
        self.short_stem = _conv(3, a)
        self.long_stem = _conv(3, a)
        self.stem_fuser = _Fuser(a, config)
        self.down1 = nn.Sequential(_conv(a, b, 2), _Residual(b))
        self.down2 = nn.Sequential(_conv(b, c, 2), _Residual(c))
        self.short_out = nn.Conv2d(16, config.memory_dim, 1)
        self.memory_fuser = _Fuser(config.memory_dim, config)
        self.memory_in = nn.Conv2d(config.memory_dim, c, 1)
        self.mid2 = _Residual(c)
        self.down3 = nn.Sequential(_conv(c, d, 2), _Residual(d))
        self.cue_scale = nn.Sequential(
            nn.Linear(N_POSITION_FEATURES, _POSITION_WIDTH),
            nn.ReLU(),
            nn.Linear(_POSITION_WIDTH, 2 * d),
        )
        self.mid3 = _Residual(d)
        self.up2 = nn.Sequential(_conv(d + c, c), _Residual(c))
        self.up1 = _conv(c + b, b)
        self.up0 = nn.Conv2d(b, a, 1)
        self.out = nn.Sequential(_conv(2 * a, a), _Conv2d(a, 1, 3, padding=1))
        self.carried_weight = nn.Parameter(torch.tensor(1.0))
        self.heads = nn.Sequential(
            nn.Linear(d + 2 * b + 2, _HEADS_WIDTH), nn.ReLU(), nn.Linear(_HEADS_WIDTH, 2)
        )
        self.ends = SweepPresence()
        self.structures = None
        if config.structures:
            width = sum(_EMBEDDING_WIDTHS)
            self.structures = nn.Parameter(torch.zeros(len(config.structures), width))
        for last in (self.out[1], self.cue_scale[2]):
            for parameter in last.parameters():
                nn.init.zeros_(parameter)

    def read_seeds(self, images: Tensor, logits: Tensor, known: Tensor) -> SeedMemory:
        """Put annotated slices into the long-term memory.

        Parameters
        ----------
        images : Tensor, shape (B, K, N, N)
            Scaled like `CompactInput.images`.
        logits : Tensor, shape (B, K, N, N)
            Of the annotated masks, `LOGITS_PER_PIXEL` per pixel, not bounded.
        known : Tensor of bool, shape (B, K)
            False where an object has fewer seeds.
        """
        n_objects, n_seeds, size, _ = images.shape
        image, mask = (x.reshape(-1, 1, size, size) for x in (images, logits))
        feature = self.seed_encoder.image(image)
        key = self.seed_encoder.key(feature).flatten(2)
        value = self.seed_encoder.value(feature, mask).flatten(2)

        def tokens(x: Tensor) -> Tensor:
            joined = x.reshape(n_objects, n_seeds, x.shape[1], -1).transpose(2, 3)
            return joined.reshape(n_objects, -1, x.shape[1])

        keys = tokens(key)
        known_tokens = known.repeat_interleave(keys.shape[1] // n_seeds, dim=1)
        ratios = torch.stack(
            [log_ratios(image_, logits, known) for image_ in (images, smoothed(images))], 1
        )
        return SeedMemory(keys, tokens(value), known_tokens, ratios)

    def forward(self, inputs: CompactInput, memory: SeedMemory) -> CompactOutput:
        """Segment one slice of every object."""
        config = self.config
        current = inputs.images[:, 1:2]
        warped = inputs.warped / MAX_LOGIT
        prior = inputs.prior / MAX_LOGIT
        likely = [
            lookup(image, memory.ratios[:, i])
            for i, image in enumerate((current, smoothed(current)))
        ]
        short = self.short_stem(
            torch.cat([warped, inputs.aligned, inputs.aligned - current], dim=1)
        )
        long = self.long_stem(torch.cat([prior, *likely], dim=1))
        images = inputs.images
        if config.memory == "long":
            images = torch.cat([current, images[:, 1:]], dim=1)
        x0 = self.stem_fuser(self.image_stem(images), short, long)
        x1 = self.down1(x0)
        x2 = self.down2(x1)
        feature = self.seed_encoder.image(current)
        query = self.seed_encoder.key(feature)
        read = _attend(query, memory)
        aligned = self.short_out(F.pixel_unshuffle(warped, 4))
        x2 = self.mid2(x2 + self.memory_in(self.memory_fuser(query, aligned, read)))
        x3 = self.down3(x2)
        of_positions, of_heads, *_ = self._label_embedding(inputs.labels)
        scale, shift = _conditioned(self.cue_scale, self._positions(inputs), of_positions).chunk(
            2, dim=1
        )
        x3 = self.mid3(x3 * (1 + scale[..., None, None]) + shift[..., None, None])
        y2 = self.up2(torch.cat([_doubled(x3), x2], dim=1))
        y1 = self.up1(torch.cat([_doubled(y2), x1], dim=1))
        y0 = self.out(torch.cat([_doubled(self.up0(y1)), x0], dim=1))
        base = inputs.prior if config.memory == "long" else inputs.warped
        logits = (self.carried_weight * base + y0)[:, 0]
        summary = self._summary(x3, y1, base, logits)
        presence, iou = _conditioned(self.heads, summary, of_heads).float().unbind(1)
        return CompactOutput(logits.float(), presence, iou)

    def judge_presence(
        self, features: Tensor, state: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits of the objects being on the slice, judged over the sweeps so far, and new states.

        Parameters
        ----------
        features : Tensor, shape (B, 35)
        state : Tensor, shape (B, 32)
            See `SweepPresence`.
        labels : Tensor of int, shape (B,)
        """
        *_, of_ends, shift = self._label_embedding(labels)
        logit, state = self.ends(features, state, of_ends)
        return logit + shift[:, 0], state

    def with_structures(self, labels: Iterable[int]) -> CompactNetwork:
        """A copy with class embeddings for more structures, equal to this one until trained."""
        old = self.config.structures
        new = CompactNetwork(
            self.config.replace(structures=(*old, *sorted(set(labels) - set(old))))
        ).to(self.carried_weight.device)
        state = self.state_dict()
        if new.structures is not None:
            state["structures"] = new.structures.detach()
        new.load_state_dict(state)
        if self.structures is not None and new.structures is not None:
            with torch.no_grad():
                new.structures[: len(old)] = self.structures
        return new

    def shift_presence(self, by: float, structure: int | None = None) -> None:
        """Move the logit of presence, of all objects or of one structure."""
        with torch.no_grad():
            if structure is None:
                self.ends.out.bias.add_(by)
            else:
                assert self.structures is not None
                row = self.config.structures.index(structure)
                self.structures[row, -1] += by / STRUCTURE_GAIN

    def _label_embedding(self, labels: Tensor) -> tuple[Tensor, ...]:
        """The class embeddings for positions, heads and presence; 0 for labels without one."""
        if self.structures is None:
            found = torch.zeros(len(labels), sum(_EMBEDDING_WIDTHS), device=labels.device)
        else:
            known = torch.tensor(self.config.structures, dtype=labels.dtype, device=labels.device)
            chosen = (labels[:, None] == known).to(self.structures.dtype)
            found = STRUCTURE_GAIN * (chosen @ self.structures)
        return torch.split(found, list(_EMBEDDING_WIDTHS), dim=1)

    def _positions(self, inputs: CompactInput) -> Tensor:
        """The position features, with the growth of the object since its seed filled in."""
        area = torch.sigmoid(inputs.warped[:, 0]).sum((1, 2))
        positions = inputs.positions.clone()
        growth = torch.log(area + 1.0) - positions[:, SEED_AREA]
        positions[:, SEED_AREA] = growth.clamp(-3.0, 3.0)
        return positions

    def _summary(self, x3: Tensor, y1: Tensor, base: Tensor, logits: Tensor) -> Tensor:
        """Input of the heads: features of the whole crop, of the warped and of the found mask."""
        before = F.avg_pool2d(torch.sigmoid(base), 2)
        now = F.avg_pool2d(torch.sigmoid(logits[:, None]), 2)
        parts = [x3.mean((2, 3))]
        for weight in (before, now):
            parts.append((y1 * weight).sum((2, 3)) / (weight.sum((2, 3)) + 1.0))
        parts += [torch.log1p(weight.sum((2, 3))) / 4 for weight in (before, now)]
        return torch.cat(parts, dim=1)


def _conditioned(layers: nn.Sequential, x: Tensor, offset: Tensor) -> Tensor:
    """Two layers, with an embedding added between them."""
    first, rectify, second = layers
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    hidden = rectify(multiply_rows(x, first.weight, first.bias) + offset)
    return multiply_rows(hidden, second.weight, second.bias)


def apply_correction(warped: Tensor, found: Tensor, share: Tensor) -> Tensor:
    """The mask that is propagated: the warped one, and a share of the correction.

    The correction is bounded, so that one slice on which the network is wrong does not lose the
    object.

    Parameters
    ----------
    warped : Tensor of float32
        Mask logits that the flow has warped here.
    found : Tensor of float32
        Those of the network.
    share : Tensor, shape (B, 1, 1)
        ``CompactConfig.feedback``, as far as the object needs it.
    """
    correction = found.clamp(-MAX_LOGIT, MAX_LOGIT) - warped
    return warped + share * correction.clamp_(-FEEDBACK_LIMIT, FEEDBACK_LIMIT)


class _SeedEncoder(nn.Module):
    """Keys and values at a quarter of the resolution; keys also for the present slice."""

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        dim = config.memory_dim
        self.layers = nn.Sequential(_conv(1, 16, 2), _conv(16, 32, 2), _conv(32, 32))
        self.to_key = nn.Conv2d(32, dim, 1)
        self.to_value = nn.Conv2d(32 + 16, dim, 1)
        side = config.window_size // 4
        self.position = nn.Parameter(torch.zeros(1, dim, side, side))
        nn.init.normal_(self.position, std=0.02)

    def image(self, image: Tensor) -> Tensor:
        feature: Tensor = self.layers(image)
        return feature

    def key(self, feature: Tensor) -> Tensor:
        key: Tensor = self.to_key(feature) + self.position
        return key

    def value(self, feature: Tensor, logits: Tensor) -> Tensor:
        mask = F.pixel_unshuffle(logits.clamp(-MAX_LOGIT, MAX_LOGIT) / MAX_LOGIT, 4)
        value: Tensor = self.to_value(torch.cat([feature, mask], dim=1))
        return value


class _Fuser(nn.Module):
    """Joins the short-term and the long-term read-out and adds them to the slice's own feature."""

    def __init__(self, width: int, config: CompactConfig) -> None:
        super().__init__()
        self.memory, self.fusion = config.memory, config.fusion
        self.gate = nn.Conv2d(3 * width, width, 1) if config.fusion == "gate" else None
        self.mix = _conv(width, width)

    def forward(self, own: Tensor, short: Tensor, long: Tensor) -> Tensor:
        if self.memory == "short":
            read = short
        elif self.memory == "long":
            read = long
        elif self.gate is None:
            read = short + long
        else:
            gate = torch.sigmoid(self.gate(torch.cat([own, short, long], dim=1)))
            read = long + gate * (short - long)
        fused: Tensor = self.mix(own + read)
        return fused


class _Conv2d(nn.Conv2d):
    """A convolution that is equal for one image and for several."""

    def forward(self, x: Tensor) -> Tensor:
        return convolve_images(super().forward, x)


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv(width, width), _Conv2d(width, width, 3, padding=1, bias=False), _norm(width)
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.body(x), inplace=True)


def _conv(inside: int, outside: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        _Conv2d(inside, outside, 3, stride, 1, bias=False),
        _norm(outside),
        nn.ReLU(inplace=True),
    )


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(8, width)


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


def _attend(query: Tensor, memory: SeedMemory) -> Tensor:
    # Without a copy in this order, a CPU computes and stores all weights at once.
    tokens = query.flatten(2).transpose(1, 2).contiguous()
    if query.device.type == "cpu" and not torch.is_grad_enabled():
        # How much of its room a memory fills would change the last digits of other objects.
        each = zip(tokens, memory.key, memory.value, memory.known, strict=True)
        found = torch.stack(
            [
                F.scaled_dot_product_attention(
                    own[None, None], key[None, None, known], value[None, None, known]
                )[0, 0]
                for own, key, value, known in each
            ]
        )
    else:
        found = F.scaled_dot_product_attention(
            tokens[:, None],
            memory.key[:, None],
            memory.value[:, None],
            attn_mask=memory.known[:, None, None],
        )[:, 0]
    # In the layout of the query: the layers that follow would keep another one.
    channels_last = query.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return found.transpose(1, 2).reshape(query.shape).contiguous(memory_format=layout)
