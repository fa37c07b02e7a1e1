"""Sweeps: which trial next and which one is cut are ours; Ray Tune places and drives them."""
