"""Is the object still there? Judged from the whole sweep so far."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from napari_slmsam2.engine.compact.features import N_CUES

N_CLUES = 3 + 9 + N_CUES
"""Joint logit, the network's logit, expected overlap; the flow's cues; those of the way."""

WIDTH = 32

DROPOUT = 0.1
"""In training, of clues and state."""

_LIMIT = 5.0


class SweepPresence(nn.Module):
    """A gated recurrent unit (Cho et al., arXiv:1406.1078) along a sweep.

    What is usual differs from object to object: whether a residual or a loss of likeness means
    the end shows in comparison with the slices before. Untrained, it gives back the joint logit.
    """

    centre: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(N_CLUES))
        self.register_buffer("scale", torch.ones(N_CLUES))
        self.inside = nn.Linear(N_CLUES, WIDTH)
        self.cell = nn.GRUCell(WIDTH, WIDTH)
        self.out = nn.Linear(WIDTH, 1)
        self.dropout = nn.Dropout(DROPOUT)
        self.joint_weight = nn.Parameter(torch.tensor(1.0))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, clues: Tensor, state: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
        """One slice of every sweep.

        Parameters
        ----------
        clues : Tensor, shape (B, 21)
            The joint logit comes first.
        state : Tensor, shape (B, 32)
            Of the slice before; zeros on the first one.
        told : Tensor, shape (B, 32)
            What was learned of each structure.

        Returns
        -------
        logit : Tensor, shape (B,)
            Of the object being on the slice, where the carried mask is.
        state : Tensor, shape (B, 32)
        """
        seen = ((clues - self.centre) / self.scale).clamp(-_LIMIT, _LIMIT)
        state = self.cell(torch.relu(self.inside(self.dropout(seen)) + told), state)
        return self.joint_weight * clues[:, 0] + self.out(self.dropout(state))[:, 0], state
