"""The models that are known by name."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from napari_slmsam2.core.config import sam2_config, slm_sam2_config
from napari_slmsam2.core.errors import ConfigError
from napari_slmsam2.engine.weights.local_models import find_adapted
from napari_slmsam2.engine.weights.model_card import ModelCard, WeightsFile

__all__ = [
    "ADAPTED_MODEL",
    "DEFAULT_MODEL",
    "ModelCard",
    "WeightsFile",
    "get_model",
    "is_weights_file",
    "list_models",
]

_SUFFIXES = (".pt", ".pth", ".pkl", ".safetensors")

#: The model of a new session.
DEFAULT_MODEL = "compact"
#: The model that `adapt` starts from by default.
ADAPTED_MODEL = "compact"


_SAM2_URL = "https://dl.fbaipublicfiles.com/segment_anything_2/092824/"
_SAM2_0_URL = "https://dl.fbaipublicfiles.com/segment_anything_2/072824/"

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

# trunk: (bytes, SHA-256) of SAM 2.0
_SAM2_0_FILES = {
    "tiny": (155_906_050, "65b50056e05bcb13694174f51bb6da89c894b57b75ccdf0ba6352c597c5d1125"),
    "small": (184_309_650, "95949964d4e548409021d47b22712d5f1abf2564cc0c3c765ba599a24ac7dce3"),
    "base_plus": (323_493_298, "d0bb7f236400a49669ffdd1be617959a8b1d1065081789d7bbff88eded3a8071"),
    "large": (897_952_466, "7442e4e9b732a508f80e141e7c2913437a3610ee0c77381a66658c3a445df87b"),
}

_CLASSICAL = (
    ModelCard(
        name="flow",
        title="Optical flow",
        kind="classical",
        licence="BSD-3-Clause",
        description="Propagates the mask from slice to slice with the dense optical flow around "
        "the object. Needs no weights.",
    ),
    ModelCard(
        name="interpolation",
        title="Shape interpolation",
        kind="classical",
        licence="BSD-3-Clause",
        description="Interpolates signed distances between annotated slices. Needs no weights and "
        "does not read the image; fills only the gaps between seeds.",
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
    cards.sort(key=lambda card: card.name.startswith("slm"))
    for trunk, (size, sha256) in _SAM2_0_FILES.items():
        title, parameters, _, _ = _SAM2_FILES[trunk]
        filename = f"sam2_hiera_{trunk}.pt"
        cards.append(
            ModelCard(
                name=f"sam2.0-{trunk.replace('_', '-')}",
                title=f"SAM 2.0 {title}",
                kind="network",
                licence="Apache-2.0",
                description=f"The first release of SAM 2 (July 2024), {parameters} parameters; "
                "SAM 2.1 is better in most cases. For comparisons, and as the base that SAMed-2 "
                "was trained from.",
                config=sam2_config(trunk, sam_version="2.0"),
                weights=WeightsFile(
                    url=_SAM2_0_URL + filename, filename=filename, size=size, sha256=sha256
                ),
            )
        )
    return cards


_COMPACT = ModelCard(
    name="compact",
    title="Compact network",
    kind="network",
    licence="BSD-3-Clause",
    description="A small network on an object-centred crop, which corrects the mask that the "
    "optical flow propagates, with the annotated slices as its memory. Part of this program; runs "
    "on a CPU. Trained on synthetic stacks and on CT, MR, PET and electron microscopy; see "
    "docs/model-card.md.",
    path=Path(__file__).parents[2] / "weights" / "compact.safetensors",
    bundled=True,
)

_MODELS = {card.name: card for card in (*_CLASSICAL, _COMPACT, *_sam2_cards())}


def list_models(folder: str | os.PathLike[str] | None = None) -> tuple[ModelCard, ...]:
    """All models that have a name: those of this program, then those of the folder.

    Parameters
    ----------
    folder : path-like, optional
        See `napari_slmsam2.engine.weights.model_card.models_folder`. A file in it that cannot
        be used gets a card with the reason.
    """
    ours = {card.weights.filename for card in _MODELS.values() if card.weights is not None}
    found = find_adapted(folder)
    return (
        *_MODELS.values(),
        *(c for c in found if c.name not in _MODELS and f"{c.name}.safetensors" not in ours),
    )


def get_model(name: str, folder: str | os.PathLike[str] | None = None) -> ModelCard:
    """The card of a model.

    Parameters
    ----------
    name : str
    folder : path-like, optional
        See `list_models`.

    Raises
    ------
    ConfigError
        No model has this name; the message lists the most similar ones.
    """
    if name in _MODELS:
        return _MODELS[name]
    models = {card.name: card for card in list_models(folder)}
    if name in models:
        return models[name]
    near = difflib.get_close_matches(name, models, n=3, cutoff=0.5)
    raise ConfigError(
        "model",
        "is not known",
        expected=" | ".join(near or models),
        found=repr(name),
        hint=f"All models: {', '.join(models)}." if near else None,
    )


def is_weights_file(model: str | os.PathLike[str]) -> bool:
    """Whether a model is given as a file of weights instead of a name."""
    return not isinstance(model, str) or model.endswith(_SUFFIXES) or os.sep in model
