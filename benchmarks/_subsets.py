"""Parts of an image folder, as folders of hard links: the same images for the same call."""

import shutil
from pathlib import Path

import numpy as np


def deal_parts(source: Path, folder: Path, parts: dict[str, int | None]) -> dict[str, Path]:
    """Deal the images of class folders into disjoint parts, every class in equal numbers.

    Which image goes where depends on the names of the files alone. What is left over goes nowhere.

    Args:
        source: class folders.
        folder: receives ``<part>/<class>/<file>``; a folder from an earlier call is used as it is.
        parts: part to images of all classes together; None takes what is left.

    Returns:
        part to its folder.
    """
    if not folder.is_dir():
        building = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(building, ignore_errors=True)
        classes = sorted(path for path in source.iterdir() if path.is_dir())
        for own in classes:
            files = sorted(path for path in own.iterdir() if path.is_file())
            order = [files[i] for i in np.random.default_rng(0).permutation(len(files))]
            for part, count in parts.items():
                share = len(order) if count is None else count // len(classes)
                taken, order = order[:share], order[share:]
                target = building / part / own.name
                target.mkdir(parents=True)
                for path in taken:
                    (target / path.name).hardlink_to(path)
        building.rename(folder)
    return {part: folder / part for part in parts}
