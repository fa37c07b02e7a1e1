"""Training one job on one or many workers: the Ray-free loops, and the doors to Ray."""
