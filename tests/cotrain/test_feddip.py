"""FedAvg and FedDIP in one process."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch

from edge_stl.cotrain import (
    FRAME_BYTES,
    HEADER_BYTES,
    SERVER,
    FedClient,
    FedDIPSettings,
    FedServer,
    Ledger,
    LocalSettings,
    run_server,
)
from edge_stl.cotrain._feddip import Task, average, norm_gradient, train_masked
from edge_stl.cotrain._fedwire import _ANSWER, _ORDER
from edge_stl.cotrain._masks import Prunable
from edge_stl.errors import UsageError
from edge_stl.testing import assert_parity
from tests.cotrain.toy import toy_accuracy, toy_problem


def federation(
    settings: FedDIPSettings,
    *,
    rounds: int = 12,
    clients: int = 3,
    steps: int = 2,
    seed: int = 0,
    **local: Any,
) -> tuple[FedServer, list[FedClient]]:
    """Return a server and clients with different numbers of images."""
    how = LocalSettings(rate=local.pop("rate", 0.3), rounds=rounds, steps=steps, **local)
    problem = toy_problem()
    server = FedServer(problem.start(), problem.shapes, how, settings, clients=clients, seed=seed)
    boxes = [
        FedClient(k, toy_problem(k), how, images=10 + 7 * k, seed=seed) for k in range(clients)
    ]
    return server, boxes


def run(
    settings: FedDIPSettings, **options: Any
) -> tuple[FedServer, Ledger, list[tuple[float, torch.Tensor | None]]]:
    """Run; also return the sparsity and the mask after every round."""
    server, boxes = federation(settings, **options)
    ledger, masks = Ledger(), []

    def after(_number: int, _loss: float) -> None:
        masks.append((server.sparsity, None if server.held is None else server.held.mask))
        if server.held is not None:
            assert not server.vector[~server.held.mask].any()

    run_server(server, boxes, ledger=ledger, after=after)
    return server, ledger, masks


DIP = FedDIPSettings(sparsity=0.8, every=3)


# the schedules


@pytest.mark.parametrize(("rounds", "every"), [(20, 5), (1000, 5), (7, 3), (5, 1)])
def test_the_sparsity_follows_the_cubic_and_ends_where_it_should(rounds: int, every: int):
    settings = FedDIPSettings(sparsity=0.95, every=every)
    plain = FedDIPSettings(sparsity=0.95, every=every, exact_end=False)
    drawn = [r for r in range(rounds) if settings.draws_mask(r)]
    reference = [0.95 - 0.45 * (1 - r / rounds) ** 3 for r in drawn]

    assert [plain.sparsity_at(r, rounds) for r in drawn] == pytest.approx(reference)
    assert [settings.sparsity_at(r, rounds) for r in drawn[:-1]] == pytest.approx(reference[:-1])
    assert settings.sparsity_at(drawn[-1], rounds) == 0.95
    assert plain.sparsity_at(0, rounds) == 0.5
    assert reference == sorted(reference)


def test_the_authors_schedule_stops_short_of_its_end():
    settings = FedDIPSettings(sparsity=0.95, every=5, exact_end=False)

    assert settings.sparsity_at(15, 20) == pytest.approx(0.943, abs=1e-3)
    assert 0.95 - settings.sparsity_at(995, 1000) == pytest.approx(0.45 * 0.005**3)


def test_the_clean_penalty_is_a_staircase_from_zero():
    settings = FedDIPSettings(penalty=1e-3)
    steps = [settings.penalty_at(r, 100) for r in range(100)]

    assert steps == [1e-3 * (r // 5) / 20 for r in range(100)]
    assert FedDIPSettings(penalty=0.0).penalty_at(99, 100) == 0


@pytest.mark.parametrize("rounds", [20, 100, 107])
def test_the_reference_penalty_is_the_authors_table(rounds: int):
    settings = FedDIPSettings(penalty=1e-3, penalty_form="reference")
    steps = [settings.penalty_at(r, rounds) for r in range(rounds)]
    length = rounds // 20

    assert steps[:length] == [0] * length
    assert steps[length] == 5e-4
    assert steps[2 * length] == pytest.approx(5.26e-4, abs=1e-6)
    assert steps[-1] == pytest.approx(9.74e-4, abs=1e-6)
    assert steps == sorted(steps)
    assert len({settings.penalty_at(r, 7) for r in range(7)}) == 1


# a client's step


def test_the_gradient_at_the_masked_weights_moves_the_dense_ones():
    problem = toy_problem()
    prunable = Prunable(problem.shapes)
    vector, mask = problem.start(), torch.ones(len(problem.start()), dtype=torch.bool)
    mask[:10] = False
    local = LocalSettings(rate=1.0, rounds=1, weight_decay=5e-4)
    after, _ = train_masked(vector, Task(4, 0.1, 0.0, mask), problem, local, prunable)
    gradient, _ = problem.gradient(vector * mask, problem.batch(4))

    assert_parity(after - vector, -0.1 * (gradient + 5e-4 * vector), kind="same_input")
    assert (after - vector)[:10].abs().min() > 0


def test_the_penalty_is_the_norm_and_not_its_square_and_safe_at_zero():
    prunable = Prunable([torch.Size((2, 3)), torch.Size((3,)), torch.Size((2, 2))])
    vector = torch.randn(13, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(vector[:6].norm() + vector[9:].norm(), vector)
    flat = vector.detach().clone()

    assert_parity(norm_gradient(flat, prunable), expected, kind="float64")
    flat[9:] = 0
    assert not norm_gradient(flat, prunable)[9:].any()
    assert not norm_gradient(flat, prunable)[6:9].any()


def test_the_penalty_makes_weights_smaller_and_is_not_in_the_loss_that_is_told():
    sizes, told = {}, {}
    for penalty in (0.0, 0.05):
        server, boxes = federation(FedDIPSettings(sparsity=0.8, every=3, penalty=penalty))
        losses: list[float] = []
        run_server(server, boxes, ledger=Ledger(), after=lambda _n, x, to=losses: to.append(x))
        sizes[penalty], told[penalty] = float(server.vector.norm()), losses

    assert sizes[0.05] < sizes[0.0]
    assert told[0.05][0] == told[0.0][0]


# the average


def test_the_average_is_by_images_and_leaves_equal_models_as_they_are():
    models = {k: torch.randn(50) for k in (3, 0, 7)}
    images = {0: 10, 3: 20, 7: 70}
    expected = 0.1 * models[0] + 0.2 * models[3] + 0.7 * models[7]

    assert_parity(average(models, images), expected, kind="same_input")
    same = dict.fromkeys((0, 3, 7), models[0])
    assert torch.equal(average(same, images), models[0])
    shuffled = {k: models[k] for k in (7, 0, 3)}
    assert torch.equal(average(shuffled, images), average(models, images))


# the masks of a run


def test_nested_masks_only_lose_weights_and_have_the_sparsity_of_the_schedule():
    server, _, masks = run(DIP)
    count = Prunable(toy_problem().shapes).count

    for number, (sparsity, mask) in enumerate(masks):
        at = number // 3 * 3
        assert abs(sparsity - DIP.sparsity_at(at, 12)) <= 1 / count
        assert mask is not None
        if number:
            before = masks[number - 1][1]
            assert before is not None
            assert not (mask & ~before).any()
            assert (number % 3 == 0) or torch.equal(mask, before)
    assert abs(server.sparsity - 0.8) <= 1 / count


def test_with_regrow_a_removed_weight_may_return():
    _, _, masks = run(
        FedDIPSettings(start_sparsity=0.7, sparsity=0.7, every=2, masks="regrow"), rounds=20
    )
    pairs = [(a[1], b[1]) for a, b in pairwise(masks)]

    assert any((b & ~a).any() for a, b in pairs if a is not None and b is not None)
    assert all(abs(s - 0.7) <= 1 / 48 for s, _ in masks)


def test_a_sparse_network_still_learns():
    server, _, _ = run(FedDIPSettings(sparsity=0.6, every=5), rounds=60, clients=4)

    assert toy_accuracy(server.vector) > 0.9
    assert server.sparsity > 0.58


def test_without_sparsity_and_penalty_it_is_fedavg():
    plain, ledger, masks = run(FedDIPSettings.fedavg(decay=0.998))
    zero = FedDIPSettings(start_sparsity=0, sparsity=0, penalty=0)
    other, same, _ = run(zero)

    assert torch.equal(plain.vector, other.vector)
    assert ledger == same
    assert all(mask is None for _, mask in masks)
    size = 4 * len(plain.vector)
    assert ledger.node(SERVER).values == ledger.node(0).values * 3 == 12 * 3 * size
    assert ledger.total.indices == 0


def test_fedavg_is_the_mean_of_what_the_clients_trained():
    server, boxes = federation(FedDIPSettings.fedavg(), rounds=1, weight_decay=1e-3)
    start, prunable = server.vector, Prunable(toy_problem().shapes)
    trained = [
        train_masked(start, Task(0, 0.3), box.problem, server.local, prunable)[0] for box in boxes
    ]
    run_server(server, boxes, ledger=Ledger())

    expected = sum(t * (box.images / 51) for t, box in zip(trained, boxes, strict=True))
    assert_parity(server.vector, expected, kind="same_input")


@pytest.mark.parametrize("masks", ["nested", "regrow"])
def test_sparse_uploads_give_the_bits_of_dense_ones_for_fewer_bytes(masks: str):
    dense, billed, _ = run(FedDIPSettings(sparsity=0.8, every=3, masks=masks, upload="dense"))
    sparse, saved, _ = run(FedDIPSettings(sparsity=0.8, every=3, masks=masks, upload="sparse"))

    assert dense.vector.numpy().tobytes() == sparse.vector.numpy().tobytes()
    assert saved.node(1).total < 0.8 * billed.node(1).total
    assert saved.node(SERVER) == billed.node(SERVER)


def test_regrow_uploads_everything_and_is_billed_so():
    server, ledger, _ = run(FedDIPSettings(sparsity=0.8, every=3, masks="regrow"))

    assert ledger.node(0).values == 12 * 4 * len(server.vector)


def test_masks_start_at_the_server_or_by_each_client():
    one, ledger, _ = run(FedDIPSettings(sparsity=0.8, every=3), rounds=1)
    each, told, _ = run(FedDIPSettings(sparsity=0.8, every=3, start_masks="client"), rounds=1)

    assert not torch.equal(one.vector, each.vector)
    assert ledger.node(SERVER).indices == 3 * 6  # a bitmap of 48 weights each
    assert told.node(SERVER).indices == 0


# the bytes


def test_every_byte_of_a_nested_run_is_accounted_for():
    server, ledger, masks = run(DIP)
    size, count = len(server.vector), 48
    kept = [size - round(s * count) for s, _ in masks]
    down = [size, *kept[:-1]]
    up = [size, *kept[:-1]]
    # the random mask; the first mask whole; afterwards only what was removed of it
    told = {0: 6, 1: 6, 4: math.ceil((kept[0] - 12) / 8), 7: math.ceil((kept[3] - 12) / 8)}
    told[10] = math.ceil((kept[6] - 12) / 8)

    for number, amount in enumerate(ledger.sent[SERVER]):
        assert amount.values == 3 * 4 * down[number]
        assert amount.indices == 3 * told.get(number, 0)
        assert amount.headers == 3 * (HEADER_BYTES + FRAME_BYTES + _ORDER.size)
    for number, amount in enumerate(ledger.sent[1]):
        assert (amount.values, amount.indices) == (4 * up[number], 0)
        assert amount.headers == HEADER_BYTES + FRAME_BYTES + _ANSWER.size


def test_bytes_fall_at_every_new_mask_and_nowhere_rise():
    _, ledger, _ = run(FedDIPSettings(start_sparsity=0.2, sparsity=0.9, every=2))
    up = [amount.total for amount in ledger.sent[0]]

    assert up == sorted(up, reverse=True)
    assert all(up[r + 1] < up[r] for r in range(0, 11, 2))


# who takes part


def test_a_share_of_the_clients_is_drawn_from_the_seed():
    server, _ = federation(FedDIPSettings(fraction=0.3), clients=10)
    drawn = [server.sample(r) for r in range(40)]

    assert all(len(chosen) == 3 and list(chosen) == sorted(set(chosen)) for chosen in drawn)
    assert {k for chosen in drawn for k in chosen} == set(range(10))
    same, _ = federation(FedDIPSettings(fraction=0.3), clients=10)
    assert drawn == [same.sample(r) for r in range(40)]
    other, _ = federation(FedDIPSettings(fraction=0.3), clients=10, seed=1)
    assert drawn != [other.sample(r) for r in range(40)]
    assert server.sample(0, present=[4]) == (4,)


def test_clients_that_sit_out_get_the_mask_when_they_are_back():
    settings = FedDIPSettings(fraction=0.5, sparsity=0.8, every=2)
    server, boxes = federation(settings, clients=4)
    ledger = Ledger()
    run_server(server, boxes, ledger=ledger, gone=lambda r: (2,) if 3 <= r < 8 else ())
    dense = FedDIPSettings(fraction=0.5, sparsity=0.8, every=2, upload="dense")
    other, others = federation(dense, clients=4)
    run_server(other, others, ledger=Ledger(), gone=lambda r: (2,) if 3 <= r < 8 else ())

    assert torch.equal(server.vector, other.vector)
    assert not server.refused
    assert not any(a.messages for a in ledger.sent[2][3:8])


def test_a_round_without_clients_changes_nothing():
    server, boxes = federation(DIP, rounds=2)
    losses: list[float] = []
    before = server.vector.clone()
    run_server(
        server,
        boxes,
        ledger=Ledger(),
        gone=lambda _: (0, 1, 2),
        after=lambda _, x: losses.append(x),
    )

    assert torch.equal(server.vector, before)
    assert all(map(math.isnan, losses))


def test_a_client_that_lost_its_mask_says_so_and_gets_it_whole():
    server, boxes = federation(DIP, rounds=6)
    ledger = Ledger()

    def after(number: int, _loss: float) -> None:
        if number == 1:
            boxes[2].restore({})

    run_server(server, boxes, ledger=ledger, after=after)

    assert [a.values > 0 for a in ledger.sent[2]] == [True, True, False, True, True, True]
    assert ledger.sent[SERVER][3].indices == 6
    assert boxes[2].held is not None
    assert server.held is not None
    assert not server.refused


# resuming


@pytest.mark.parametrize("masks", ["nested", "regrow"])
@pytest.mark.parametrize("cut", [1, 4, 7])
def test_a_restored_run_goes_on_with_the_same_bits_and_bytes(masks: str, cut: int):
    settings = FedDIPSettings(sparsity=0.8, every=3, masks=masks, fraction=0.7)
    whole, boxes = federation(settings)
    ledger = Ledger()
    run_server(whole, boxes, ledger=ledger)

    def stop(number: int, _loss: float) -> None:
        if number == cut - 1:
            raise RuntimeError("power cut")

    first, early = federation(settings)
    again = Ledger()
    with pytest.raises(RuntimeError, match="power cut"):
        run_server(first, early, ledger=again, after=stop)
    second, late = federation(settings)
    second.restore(first.state())
    for box, old in zip(late, early, strict=True):
        box.restore(old.state())
    run_server(second, late, ledger=again, start=cut)

    assert torch.equal(second.vector, whole.vector)
    assert again == ledger


# settings


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fraction": 0.0}, "fraction = 0.0: out of range; expected above 0 to 1"),
        ({"decay": 1.1}, "decay = 1.1"),
        ({"sparsity": 1.0}, "sparsity = 1.0"),
        ({"sparsity": 0.3}, r"start_sparsity = 0.5: out of range; expected 0 to the sparsity, 0.3"),
        ({"every": 0}, "every = 0"),
        ({"penalty": math.inf}, "penalty = inf"),
        ({"penalty": math.nan}, "penalty = nan"),
        ({"masks": "grow"}, "expected nested or regrow"),
        ({"upload": "none"}, "expected auto or dense or sparse"),
        ({"start_masks": "box"}, "expected server or client"),
        ({"penalty_form": "new"}, "expected clean or reference"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any], said: str):
    with pytest.raises(UsageError, match=said):
        FedDIPSettings(**changes)


def test_no_clients_and_no_images_are_refused():
    with pytest.raises(UsageError, match="clients = 0"):
        federation(DIP, clients=0)
    with pytest.raises(UsageError, match="client 1: 0 images"):
        FedClient(1, toy_problem(), LocalSettings(rate=1, rounds=1), images=0)
