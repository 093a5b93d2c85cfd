"""Addition of an untrained slice adapter to a SAM 2 or SLM-SAM 2 network."""

from __future__ import annotations

import torch

from napari_slmsam2.core.errors import ConfigError
from napari_slmsam2.engine.sam2.network import SliceNetwork
from napari_slmsam2.engine.weights.checkpoints import load_weights
from napari_slmsam2.training.recipes import SLICE_ADAPTER_KEY


def with_slice_adapter(network: SliceNetwork, form: str, seed: int) -> SliceNetwork:
    """The network with a slice adapter, which is zero at first: the output is the same.

    Parameters
    ----------
    network : SliceNetwork
        Returned itself where it has an adapter of this form, whose training continues.
    form : str
        See `napari_slmsam2.engine.sam2.slice_adapters`.
    seed : int
        Of the initial values.

    Raises
    ------
    ConfigError
        The network has an adapter of another form.
    """
    found = network.config.adapter
    if found == form:
        return network
    if found != "none":
        raise ConfigError(
            "base model",
            "has a slice adapter of another form",
            expected=f"none or {form}",
            found=found,
            hint=f"Train its own adapter ({found}), or start from a model without one.",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted = SliceNetwork(network.config.replace(adapter=form))
    new = {name: x for name, x in adapted.state_dict().items() if SLICE_ADAPTER_KEY in name}
    base = {name: x.cpu() for name, x in network.state_dict().items()}
    load_weights(adapted, {**new, **base}, what="base model")
    return adapted
