"""What the manifest offers napari beside the widgets: readers, a writer, sample data.

Without Qt and torch; everything heavy is imported on use.
"""
