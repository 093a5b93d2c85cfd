"""Turn a volume into a finished 3D label map: one annotated slice in, all slices out."""

__version__ = "0.1.0.dev0"
