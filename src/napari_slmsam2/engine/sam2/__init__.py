"""SAM 2.1 and SLM-SAM 2, built from the modules of the ``sam2`` package."""
