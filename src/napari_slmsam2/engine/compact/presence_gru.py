"""Presence of the object, judged from the whole sweep so far."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from napari_slmsam2.engine.compact.features import N_POSITION_FEATURES
from napari_slmsam2.engine.features.batches import multiply_rows

N_MASK_FEATURES = 14

N_PRESENCE_FEATURES = 3 + 9 + N_POSITION_FEATURES + N_MASK_FEATURES
"""Joint logit, the network's logit, expected overlap; appearance features; position features; those
of `napari_slmsam2.engine.compact.presence_evidence.mask_evidence`."""

WIDTH = 32

DROPOUT = 0.2
"""In training, of features and state."""

_LIMIT = 5.0


class SweepPresence(nn.Module):
    """A gated recurrent unit (Cho et al., arXiv:1406.1078) along a sweep.

    Typical values differ from object to object: whether a residual or a loss of similarity means
    the end shows in comparison with the slices before. Untrained, it returns the joint logit.
    """

    centre: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(N_PRESENCE_FEATURES))
        self.register_buffer("scale", torch.ones(N_PRESENCE_FEATURES))
        self.inside = nn.Linear(N_PRESENCE_FEATURES, WIDTH)
        self.cell = nn.GRUCell(WIDTH, WIDTH)
        self.out = nn.Linear(WIDTH, 1)
        self.dropout = nn.Dropout(DROPOUT)
        self.joint_weight = nn.Parameter(torch.tensor(1.0))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *arguments: Any
    ) -> None:
        state_dict.update(with_all_features(state_dict, prefix))
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def forward(self, features: Tensor, state: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """One slice of every sweep.

        Parameters
        ----------
        features : Tensor, shape (B, 35)
            The joint logit comes first.
        state : Tensor, shape (B, 32)
            Of the slice before; zeros on the first one.
        embedding : Tensor, shape (B, 32)
            Class embedding of the structure.

        Returns
        -------
        logit : Tensor, shape (B,)
            Of the object being on the slice, where the propagated mask is.
        state : Tensor, shape (B, 32)
        """
        seen = ((features - self.centre) / self.scale).clamp(-_LIMIT, _LIMIT)
        inside, out = self.inside, self.out
        entered = multiply_rows(self.dropout(seen), inside.weight, inside.bias) + embedding
        state = self._next_state(torch.relu(entered), state)
        change = multiply_rows(self.dropout(state), out.weight, out.bias)
        return self.joint_weight * features[:, 0] + change[:, 0], state

    def _next_state(self, entered: Tensor, state: Tensor) -> Tensor:
        cell = self.cell
        reset, update, new = multiply_rows(entered, cell.weight_ih, cell.bias_ih).chunk(3, 1)
        of_state = multiply_rows(state, cell.weight_hh, cell.bias_hh).chunk(3, 1)
        reset = torch.sigmoid(reset + of_state[0])
        update = torch.sigmoid(update + of_state[1])
        new = torch.tanh(new + reset * of_state[2])
        return new + update * (state - new)


def with_all_features(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """A state dict with a place for every feature; those that it lacks have no effect.

    Files that were written before `mask_evidence` existed lack its features.

    Parameters
    ----------
    state : mapping of str to Tensor
    prefix : str
        Of the keys of `SweepPresence`.
    """
    extended = dict(state)
    for name, value in (("centre", 0.0), ("scale", 1.0), ("inside.weight", 0.0)):
        known = state.get(prefix + name)
        if known is not None and known.shape[-1] == N_PRESENCE_FEATURES - N_MASK_FEATURES:
            rest = known.new_full((*known.shape[:-1], N_MASK_FEATURES), value)
            extended[prefix + name] = torch.cat([known, rest], -1)
    return extended
