"""Training data: labelled volumes, the clips cut from them, and batches."""
