"""Measurements of edge-stl on public image sets; run as ``python -m benchmarks.mnist``."""
