"""The branch file of a group: an ordinary one, whose box is the group."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from device_agent.branch_file import vector_of, versions
from device_agent.cotrain._end import Counts
from device_agent.cotrain._group import Run
from device_agent.cotrain._scores import TEMPERATURES, Scores
from edge_stl.branch import folded_parameters
from exporter.branch import export_branch
from exporter.manifest import Images, Manifest, TrainingRecord, Validation


if TYPE_CHECKING:
    from torch import nn

    from edge_stl.branch import Trainer

_MOST_LOSS = 28.0  # of a manifest; chance among 10,000 classes is 9.2


def group_file(
    branch: "Trainer",
    run: Run,
    counts: Counts,
    scores: Scores,
    *,
    members: Sequence[int],
    threads: int,
) -> tuple[bytes, dict[str, Any]]:
    """Return the bytes of a group's branch file, and its validation scores.

    Args:
        branch: with the mean model in its network.
        run: of the group.
        counts: images of all boxes, as published.
        scores: of all boxes.
        members: ranks whose models are in the mean.
        threads: of torch, for the record.

    Raises:
        CheckError: the file would not do elsewhere what the network does here.
    """
    plan, group = branch.plan, run.group
    place = scores.best(counts.train)
    accuracy = scores.accuracy(place, floor=plan.privacy.min_count)
    loss = min(scores.log_loss(place, counts.train), _MOST_LOSS)
    images = max(1, sum(counts.train))
    # Every box takes part in every round.
    epochs = math.ceil(group.rounds * group.steps * group.batch * len(members) / images)
    manifest = Manifest(
        format=1,
        builder=1,
        plan_digest=plan.digest,
        branch=branch.branch.name,
        box=group.name,
        network=branch.branch.network,
        native_resolution=branch.native_resolution,
        images=Images(train=counts.train, validation=counts.validation),
        validation=Validation(accuracy=accuracy, log_loss=loss),
        temperature=float(f"{TEMPERATURES[place]:.6g}"),
        training=TrainingRecord(
            epochs=min(max(1, epochs), 100_000),
            seed=group.seed,
            batch_size=group.batch,
            learning_rate=group.rate,
            weight_decay=group.weight_decay,
            label_smoothing=0.0,
            threads=threads,
            device="cpu",
        ),
        versions=versions(),
        test_vector=vector_of(branch),
        cotrained=run.record,
    )
    layers = plan.layers(branch.branch)
    parameters = folded_parameters(
        cast("nn.Sequential", branch.module),  # a network of one's own is no group's
        layers,
        channels=plan.band_channels(branch.branch),
        size=plan.band_size(branch.branch),
    )
    data = export_branch(manifest, plan, parameters)
    return data, {"accuracy": accuracy, "log_loss": loss}
