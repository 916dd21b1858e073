"""What besides the plan, the images and the seed decides on the last digits of a training run.

PyTorch promises the same bits for none of it: another number of threads sums in another order,
another release or processor has other kernels
(https://docs.pytorch.org/docs/2.13/notes/randomness.html).
"""

import platform


def surroundings(*, threads: int) -> dict[str, str]:
    """Return name and value of everything that a resumed run must share to end with the same bytes.

    The device and the version of edge-stl are not in it: with another one a run starts anew.

    Args:
        threads: of torch.
    """
    import numpy as np  # both are here already when this is called
    import torch

    return {
        "threads": str(threads),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }
