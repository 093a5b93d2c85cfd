"""Asking for a file to write, with the suffix of the chosen filter."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from qtpy.QtWidgets import QFileDialog, QMessageBox, QWidget


def ask_save_path(
    parent: QWidget, title: str, name: str, filters: str, suffixes: Sequence[str] = ()
) -> Path | None:
    """Ask for a file to write.

    Parameters
    ----------
    parent : QWidget
    title : str
    name : str
        The name that is offered.
    filters : str
        Of Qt, ``"NIfTI (*.nii.gz *.nii);;TIFF (*.tif)"``.
    suffixes : sequence of str
        Others that a typed name may have, lower case. A name without a known suffix gets the first
        one of the chosen filter; if such a file exists, the person is asked.

    Returns
    -------
    Path or None
        None where nothing was chosen, or an existing file is to stay.
    """
    typed, chosen = QFileDialog.getSaveFileName(parent, title, name, filters)
    if not typed:
        return None
    path = Path(typed)
    known = (*_suffixes_of(filters), *suffixes)
    if path.name.lower().endswith(tuple(known)):
        return path
    path = path.with_name(path.name + (_suffixes_of(chosen) or known)[0])
    # The dialog asked about the name as it was typed.
    if path.exists():
        question = f"{path} exists already. Do you want to replace it?"
        if QMessageBox.question(parent, title, question) != QMessageBox.StandardButton.Yes:
            return None
    return path


def _suffixes_of(filters: str) -> list[str]:
    return re.findall(r"\*(\.[^\s);]+)", filters)
