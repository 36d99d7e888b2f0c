"""What ``task=outcome`` starts from, and the space in which it looks at latents."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from microlatent.data.latents import Latents, Patches
from microlatent.systems.partitions.outcomes import Outcomes
from microlatent.systems.partitions.subjects import Components, fit_components

NUM_PATHS = 3  # real partitions whose way to the other outcome is drawn


class OutcomeInput(NamedTuple):
    """Latents whose subjects have an outcome, and the patches that they are of."""

    latents: Latents
    patches: Patches
    outcomes: Outcomes
    rows: np.ndarray  # (n,) rows of the table whose subject has an outcome
    subject: np.ndarray  # (n,) number of their subject


class Space(NamedTuple):
    """The latents of these rows, and their scores on a few components."""

    x: np.ndarray  # (n, D)
    components: Components
    scores: np.ndarray  # (n, K)

    @classmethod
    def of(cls, opened: OutcomeInput) -> Space:
        """Read the latents and fit the components."""
        latents, rows = opened.latents, opened.rows
        x = latents.x if len(rows) == len(latents) else np.asarray(latents.x[rows])
        components = fit_components(x, opened.subject)
        return cls(x, components, components.transform(x))

    def changes(self, steps: np.ndarray) -> np.ndarray:
        """Return changes of the latents (..., D) that changes of the scores (..., K) make."""
        return steps @ (self.components.scale[:, None] * self.components.axes)
