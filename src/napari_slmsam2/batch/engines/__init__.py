"""Where jobs run: processes of this computer, a dask cluster, Slurm."""
