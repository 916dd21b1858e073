"""What the benchmark of NGC deals to its boxes, and the bytes it counts."""

import numpy as np
import torch

from benchmarks._ngc import cnn5, halves, wire


def test_every_one_of_ten_boxes_gets_halves_of_two_classes_and_no_image_twice():
    labels = torch.arange(10).repeat(20)

    for seed in range(5):
        parts = halves(labels, 10, seed=seed)
        assert [len(np.unique(labels.numpy()[part])) for part in parts] == [2] * 10
        assert sorted(np.concatenate(parts)) == list(range(200))


def test_the_five_layer_cnn_is_the_authors_and_its_bytes_are_counted_on_the_wire():
    sent = wire()

    assert sum(p.numel() for p in cnn5(seed=0).parameters()) == 76_010
    assert sent["full"] == sent["ngc, alpha 0"] == sent["compngc, alpha 0"]
    assert sent["ngc"]["values"] == 2 * 304_040
    assert sent["compngc"]["values"] == 304_040 + 9_558
