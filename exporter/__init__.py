"""Branch files and ensembles: build, read, merge, split, check. Nothing here needs torch."""
