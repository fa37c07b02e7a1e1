"""Parallelism, applied to a plain model from outside."""
