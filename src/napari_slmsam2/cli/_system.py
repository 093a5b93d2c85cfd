"""Facts about the installation and the machine, for bug reports."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

#: Packages by the extra that installs them; "" for the package itself.
_PACKAGES = {
    "": ("torch", "torchvision", "sam2", "numpy", "scipy", "scikit-image", "nibabel", "tifffile"),
    "all": ("napari", "PyQt6", "PySide6"),
    "plot": ("matplotlib",),
    "zarr": ("zarr",),
    "minc": ("h5py",),
}
_QT = ("PyQt6", "PySide6")


def system_facts() -> dict[str, Any]:
    """Versions, devices and folders, as plain values.

    Returns
    -------
    dict
        ``napari-slmsam2``, ``python``, ``system``, ``packages`` (name to version or None),
        ``missing`` (extra to install for each missing package), ``devices`` (name to description),
        ``memory_gib``, ``models_folder``, ``embeddings`` (folder, slices and bytes) and
        ``environment`` (variables of this package). The home folder is written as ``~``.
    """
    import psutil

    import napari_slmsam2
    from napari_slmsam2.engine.propagation.embedding_files import embeddings_folder, stored_files
    from napari_slmsam2.engine.weights.model_card import models_folder

    embeddings = stored_files(embeddings_folder())
    packages = {name: _version(name) for names in _PACKAGES.values() for name in names}
    has_qt = any(packages[name] for name in _QT)
    missing = {
        name: extra
        for extra, names in _PACKAGES.items()
        for name in names
        if packages[name] is None and not (name in _QT and has_qt)
    }
    return {
        "napari-slmsam2": napari_slmsam2.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "packages": packages,
        "missing": missing,
        "devices": _devices(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "models_folder": _short(models_folder()),
        "embeddings": {
            "folder": _short(embeddings_folder()),
            "slices": len(embeddings),
            "bytes": sum(file.nbytes for file in embeddings),
        },
        "environment": {
            name: _short(value)
            for name, value in sorted(os.environ.items())
            if name.startswith("NAPARI_SLMSAM2_")
        },
    }


def system_rows(facts: dict[str, Any]) -> dict[str, str]:
    """The facts as lines of text by title."""
    missing = facts["missing"]
    hints = [
        f'{name} (pip install "napari-slmsam2[{extra}]")' if extra else name
        for name, extra in missing.items()
    ]
    found = [f"{name} {number}" for name, number in facts["packages"].items() if number]
    rows = {
        "napari-slmsam2": facts["napari-slmsam2"],
        "Python": facts["python"],
        "system": facts["system"],
        "memory": f"{facts['memory_gib']:g} GiB",
        "packages": ", ".join(found),
        "not installed": ", ".join(hints),
    }
    rows |= {f"device {name}": text for name, text in facts["devices"].items()}
    rows["models"] = facts["models_folder"]
    stored = facts["embeddings"]
    size = f"{stored['bytes'] / 2**20:.1f} MiB"
    rows["encoded slices"] = f"{stored['slices']}, {size}, {stored['folder']}"
    rows |= facts["environment"]
    return {title: text for title, text in rows.items() if text}


def _devices() -> dict[str, str]:
    """Devices that PyTorch can use."""
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    devices = {"cpu": f"{os.cpu_count()} cores, {torch.get_num_threads()} threads; PyTorch {build}"}
    if torch.backends.mps.is_available():
        devices["mps"] = "Apple graphics"
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        card = torch.cuda.get_device_properties(index)
        devices[f"cuda:{index}"] = f"{card.name}, {card.total_memory / 2**30:.0f} GiB"
    return devices


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _short(path: str | os.PathLike[str]) -> str:
    text, home = os.fspath(path), str(Path.home())
    return "~" + text[len(home) :] if text.startswith(home + os.sep) else text
