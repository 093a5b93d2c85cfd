"""Image, labels and annotation of the stack on screen."""
