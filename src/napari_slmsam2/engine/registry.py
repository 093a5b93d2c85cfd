"""The models that are known by name."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from napari_slmsam2.core.config import ModelConfig, sam2_config, slm_sam2_config
from napari_slmsam2.core.errors import ConfigError

#: The model of a new session.
DEFAULT_MODEL = "flow"


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsFile:
    """A file of weights that can be downloaded.

    Attributes
    ----------
    url : str
    filename : str
        Its name in the folder of models.
    size : int
        Bytes.
    sha256 : str
        Lower-case hexadecimal digest.
    """

    url: str
    filename: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What a user should know of a model before choosing it.

    Attributes
    ----------
    name : str
        What to ask for.
    title : str
    kind : {"classical", "network"}
        Classical models need no weights.
    licence : str
        SPDX name, of the weights where there are some, else of the code.
    description : str
    config : ModelConfig or None
        None for a classical model.
    weights : WeightsFile or None
        None for a model that needs no download.
    conversion : str or None
        How the file's weights are turned into the network's, see
        `napari_slmsam2.engine.checkpoints.convert_state`.
    """

    name: str
    title: str
    kind: str
    licence: str
    description: str
    config: ModelConfig | None = None
    weights: WeightsFile | None = None
    conversion: str | None = None

    @property
    def needs_download(self) -> bool:
        """Whether the model comes with a file of weights."""
        return self.weights is not None


_SAM2_URL = "https://dl.fbaipublicfiles.com/segment_anything_2/092824/"

# trunk: (title, parameters, bytes, SHA-256)
_SAM2_FILES = {
    "tiny": (
        "tiny",
        "39 M",
        156_008_466,
        "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69",
    ),
    "small": (
        "small",
        "46 M",
        184_416_285,
        "6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38",
    ),
    "base_plus": (
        "base+",
        "81 M",
        323_606_802,
        "a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5",
    ),
    "large": (
        "large",
        "224 M",
        898_083_611,
        "2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318",
    ),
}

_CLASSICAL = (
    ModelCard(
        name="flow",
        title="Optical flow",
        kind="classical",
        licence="BSD-3-Clause",
        description="Carries the mask from slice to slice along the dense optical flow around the "
        "object. Needs no weights; runs anywhere.",
    ),
    ModelCard(
        name="interpolation",
        title="Shape interpolation",
        kind="classical",
        licence="BSD-3-Clause",
        description="Interpolates signed distances between annotated slices. Needs no weights and "
        "does not look at the image; fills only the gaps between seeds.",
    ),
)


def _sam2_cards() -> list[ModelCard]:
    cards = []
    for trunk, (title, parameters, size, sha256) in _SAM2_FILES.items():
        filename = f"sam2.1_hiera_{trunk}.pt"
        name = trunk.replace("_", "-")
        weights = WeightsFile(url=_SAM2_URL + filename, filename=filename, size=size, sha256=sha256)
        cards.append(
            ModelCard(
                name=f"sam2.1-{name}",
                title=f"SAM 2.1 {title}",
                kind="network",
                licence="Apache-2.0",
                description=f"SAM 2.1 (Ravi et al., arXiv:2408.00714), {parameters} parameters, "
                "trained on natural images and videos.",
                config=sam2_config(trunk),
                weights=weights,
            )
        )
        cards.append(
            ModelCard(
                name=f"slm-sam2.1-{name}",
                title=f"SLM-SAM 2 {title}, not fine-tuned",
                kind="network",
                licence="Apache-2.0",
                description="SLM-SAM 2 (Chen et al., arXiv:2505.01854) with the weights of SAM 2.1 "
                f"{title}: its memory attention is copied into the short-term one. A starting "
                "point for training, NOT fine-tuned: until trained, expect worse masks than from "
                f"sam2.1-{name}, because the sum of both memories is twice as large as what the "
                "mask decoder knows.",
                config=slm_sam2_config(trunk),
                weights=weights,
                conversion="sam2.1->slm-sam2",
            )
        )
    return sorted(cards, key=lambda card: card.name.startswith("slm"))


_MODELS = {card.name: card for card in (*_CLASSICAL, *_sam2_cards())}


def list_models() -> tuple[ModelCard, ...]:
    """All models that are known by name; those without weights first."""
    return tuple(_MODELS.values())


def get_model(name: str) -> ModelCard:
    """The model of a name.

    Raises
    ------
    ConfigError
        No model has this name; the message lists the nearest ones.
    """
    if name in _MODELS:
        return _MODELS[name]
    near = difflib.get_close_matches(name, _MODELS, n=3, cutoff=0.5)
    raise ConfigError(
        "model",
        "is not known",
        expected=" | ".join(near or _MODELS),
        found=repr(name),
        hint=f"All models: {', '.join(_MODELS)}." if near else None,
    )
