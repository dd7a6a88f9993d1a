"""Where pieces of work run: processes of this machine, a Slurm cluster, a Ray cluster. The function is the same."""
