"""Open the sample scan and the panel "Annotate" from a script."""

from __future__ import annotations

import napari

viewer = napari.Viewer()
viewer.open_sample("napari-slmsam2", "scan_with_seeds")
dock, panel = viewer.window.add_plugin_dock_widget("napari-slmsam2", "Annotate")

if __name__ == "__main__":
    napari.run()
