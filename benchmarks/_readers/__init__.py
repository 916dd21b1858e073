"""One file per form in which the image sets are published; ``benchmarks._data`` is the door."""
