"""The ``edge-stl`` command: the composition root, which imports the rooms lazily."""

from edge_stl.cli._app import console as console, main as main
