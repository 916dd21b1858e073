"""PCA compression in one process: what must hold of its numbers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings as examples, strategies as st
from torch import Tensor

from benchmarks._pca_ranks import PowerSGD
from edge_stl.cotrain import PCASettings
from edge_stl.cotrain._collective import Collective
from edge_stl.cotrain._pca import PCACompressor
from edge_stl.cotrain._replicas import together
from edge_stl.errors import UsageError
from edge_stl.testing import assert_parity


SHAPES = {"conv": torch.Size((6, 2, 3, 3)), "bias": torch.Size((6,)), "fc": torch.Size((5, 9))}
MATRICES = ("conv", "fc")
SIMPLE = PCASettings(rank=2, start=0, min_rate=0)


def workers(count: int, **changes: Any) -> list[PCACompressor]:
    return [PCACompressor(SHAPES, replace(SIMPLE, **changes)) for _ in range(count)]


def draw(count: int, seed: int, *, rank: int = 0) -> list[dict[str, Tensor]]:
    """Return gradients of some workers; with a rank, matrices of a common column space."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    left = {n: torch.randn(s[0], max(rank, 1), generator=generator) for n, s in SHAPES.items()}
    for _ in range(count):
        one = {n: torch.randn(s, generator=generator) for n, s in SHAPES.items()}
        for name in MATRICES if rank else ():
            columns = SHAPES[name].numel() // SHAPES[name][0]
            right = torch.randn(rank, columns, generator=generator)
            one[name] = (left[name] @ right).view(SHAPES[name])
        found.append(one)
    return found


def step(
    compressors: Sequence[PCACompressor], gradients: Sequence[Mapping[str, Tensor]]
) -> tuple[list[dict[str, Tensor]], list[list[Collective]]]:
    """Run a step of all workers; return what each gets, and the collectives that happened."""
    running = [c.compress(g) for c, g in zip(compressors, gradients, strict=True)]
    pending, happened, results = [next(r) for r in running], [], []
    while not results:
        happened.append(pending)
        for compressor, collective in zip(compressors, pending, strict=True):
            compressor.count(collective, len(compressors))
        answer, pending = together(pending), []
        for generator in running:
            try:
                pending.append(generator.send(answer))
            except StopIteration as end:
                results.append(end.value)
    for compressor in compressors:
        compressor.advance()
    return results, happened


def _ended(generator: Any, answer: Tensor) -> Iterator[bool]:
    try:
        generator.send(answer)
    except StopIteration:
        yield True
    yield False


def mean(gradients: Sequence[Mapping[str, Tensor]], name: str) -> Tensor:
    return torch.stack([g[name] for g in gradients]).mean(0)


def as_matrix(tensor: Tensor) -> Tensor:
    return tensor.reshape(tensor.shape[0], -1)


def error(compressor: PCACompressor, name: str) -> Tensor:
    kept = compressor.slots[name].error
    assert kept is not None
    return kept


@pytest.mark.parametrize(
    ("form", "refresh"), [("power", 100), ("gather", 100), ("shared", 1), ("none", 1)]
)
@pytest.mark.parametrize("count", [1, 2, 4])
def test_full_rank_is_plain_averaging(form: str, refresh: int, count: int):
    compressors = workers(count, form=form, rank=99, refresh=refresh)
    for k in range(6):
        gradients = draw(count, k)
        found, _ = step(compressors, gradients)
        for name in SHAPES:
            true = mean(gradients, name)
            assert_parity(found[-1][name] / true.max(), true / true.max(), kind="branches")


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("form", ["power", "gather", "shared"])
def test_what_was_sent_and_what_is_kept_are_the_gradient(form: str, count: int):
    compressors = workers(count, form=form)
    step(compressors, draw(count, 0))
    before = [{n: c.slots[n].error for n in MATRICES} for c in compressors]
    gradients = draw(count, 1)
    bases = {n: compressors[0].slots[n].basis for n in MATRICES}
    found, happened = step(compressors, gradients)

    for name in MATRICES:
        sent = []
        for k, compressor in enumerate(compressors):
            old = before[k][name]
            whole = as_matrix(gradients[k][name]) + (0 if old is None else old)
            sent.append(whole - error(compressor, name))
            assert error(compressor, name).norm() <= whole.norm()
            basis = bases[name]
            if form == "shared":
                assert basis is not None
                assert_parity(sent[k], whole @ basis @ basis.T, kind="float32")
            assert torch.linalg.matrix_rank(sent[k], rtol=1e-4) <= 2 + (form == "gather")
        assert_parity(torch.stack(sent).mean(0), as_matrix(found[0][name]), kind="float32")
    assert len(happened) == {"power": 3, "gather": 2, "shared": 2}[form]


@pytest.mark.parametrize("form", ["power", "gather", "shared"])
def test_all_workers_hold_the_same_gradients_and_bases(form: str):
    compressors = workers(4, form=form, refresh=3)
    for k in range(5):
        found, _ = step(compressors, draw(4, k))
        for other, compressor in zip(found[1:], compressors[1:], strict=True):
            assert all(torch.equal(found[0][n], other[n]) for n in SHAPES)
            for name in MATRICES:
                first, same = compressors[0].slots[name].basis, compressor.slots[name].basis
                assert (first is None and same is None) or torch.equal(first, same)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["power", "shared"])
def test_bases_stay_orthonormal(form: str):
    compressors = workers(2, form=form, refresh=4)
    for k in range(9):
        step(compressors, draw(2, k))
        for name in MATRICES:
            basis = compressors[0].slots[name].basis
            assert basis is not None
            assert_parity(basis.T @ basis, torch.eye(2), kind="float32")


@pytest.mark.parametrize("errors", ["projection", "average"])
@pytest.mark.parametrize("form", ["power", "gather", "shared"])
def test_nothing_is_lost_over_many_steps(form: str, errors: str):
    """What was applied is the sum of the mean gradients less the mean of what is still kept."""
    compressors = workers(3, form=form, error=errors, refresh=7)
    applied = {n: torch.zeros(SHAPES[n]) for n in MATRICES}
    true = {n: torch.zeros(SHAPES[n]) for n in MATRICES}
    for k in range(20):
        gradients = draw(3, k)
        found, _ = step(compressors, gradients)
        for name in MATRICES:
            applied[name] += found[0][name]
            true[name] += mean(gradients, name)
    for name in MATRICES:
        kept = torch.stack([error(c, name) for c in compressors]).mean(0)
        assert (as_matrix(true[name] - applied[name]) - kept).abs().max() < 3e-5


def test_both_rules_of_the_error_give_the_same_updates_and_the_projection_keeps_less():
    ours, torchs = workers(4), workers(4, error="average")
    for k in range(40):
        gradients = draw(4, k % 5)
        (one, *_), _ = step(ours, gradients)
        (other, *_), _ = step(torchs, gradients)
        if k < 10:  # rounding grows with what is kept
            assert (one["conv"] - other["conv"]).abs().max() < 1e-4
    assert error(ours[0], "conv").norm() < 0.5 * error(torchs[0], "conv").norm()


def test_a_mean_gradient_of_low_rank_leaves_no_error_in_sum():
    compressors = workers(3)
    gradients = draw(3, 0, rank=2)
    found, _ = step(compressors, gradients)

    for name in MATRICES:
        assert_parity(found[0][name], mean(gradients, name), kind="float32")
        assert sum(error(c, name) for c in compressors).abs().max() < 1e-4  # type: ignore[union-attr]


def test_power_iteration_comes_to_the_best_approximation_of_its_rank():
    compressors = workers(3, error="none")
    gradients = draw(3, 0)
    found = [step(compressors, gradients)[0][0] for _ in range(300)]

    for name in MATRICES:
        target = as_matrix(mean(gradients, name))
        tail = torch.linalg.svdvals(target)[2:].square().sum().sqrt()
        assert float((target - as_matrix(found[-1][name])).norm()) == pytest.approx(
            float(tail), rel=1e-4
        )


def test_the_updates_are_those_of_torchs_own_hook_from_the_same_basis():
    """Torch's code is the oracle: begun with its basis and errors, both give the same numbers."""
    shapes = [SHAPES[name] for name in SHAPES]
    hook = PowerSGD(3, shapes, rank=2, start=2)
    flat = [[torch.cat([g[n].reshape(-1) for n in SHAPES]) for g in draw(3, k)] for k in range(9)]
    for k in range(3):
        hook.mean([g.clone() for g in flat[k]])
    ours = [PCACompressor(SHAPES, replace(SIMPLE, min_rate=1.2)) for _ in range(3)]
    for compressor, state in zip(ours, hook._states, strict=True):
        errors = hook._flat.views(state.error_dict[0])
        factors = iter(state.q_memory_dict[0].split([18 * 2]))
        assert state.p_memory_dict[0].numel() == 6 * 2  # "fc" shrinks too little for torch
        for name, part in zip(SHAPES, errors, strict=True):
            slot = compressor.slots[name]
            if name == "conv":
                slot.error = as_matrix(part).clone()
                slot.basis = torch.linalg.qr(next(factors).view(18, 2)).Q
            else:
                slot.rank = 0
    for k in range(3, 9):
        expected = hook._flat.views(hook.mean([g.clone() for g in flat[k]]))
        found, _ = step(ours, draw(3, k))
        for name, part in zip(SHAPES, expected, strict=True):
            assert (found[0][name] - part).abs().max() < 1e-4, (name, k)


def _first(form: str, gradients: Mapping[str, Tensor], kind: str) -> Tensor:
    """Return what a worker with a fixed basis hands to the first collective of a kind."""
    (compressor,) = workers(1, form=form)
    for index, name in enumerate(MATRICES):
        slot = compressor.slots[name]
        draws = torch.randn(slot.columns, 2, generator=torch.Generator().manual_seed(index))
        slot.basis = torch.linalg.qr(draws).Q
    compressor.step = 1
    _, happened = step([compressor], [gradients])
    return next(c.tensor for (c,) in happened[1:] if c.kind == kind)


@pytest.mark.parametrize(
    ("form", "kind", "linear"),
    [("shared", "mean", True), ("power", "mean", True), ("gather", "gather", False)],
)
def test_what_is_summed_is_linear_and_what_is_gathered_is_not(form: str, kind: str, linear: bool):
    one, other = draw(2, 0)
    both = {n: one[n] + other[n] for n in SHAPES}
    apart = _first(form, one, kind) + _first(form, other, kind)
    gap = (_first(form, both, kind) - apart).abs().max()

    assert (gap < 1e-5) == linear


def test_averaging_the_factors_of_different_bases_would_be_wrong():
    compressors = workers(3, form="gather")
    gradients = draw(3, 0)
    found, happened = step(compressors, gradients)
    z, v, mu = together(happened[1]).mean(0)[: 6 * 2 + 18 * 2 + 18].split([12, 36, 18])
    wrong = z.view(6, 2) @ v.view(18, 2).T + mu
    true = as_matrix(mean(gradients, "conv"))

    assert (as_matrix(found[0]["conv"]) - true).norm() < 0.8 * (wrong - true).norm()


def test_a_layer_without_gradient_is_left_alone_and_learns_again_later():
    compressors = workers(2)
    silent = [g | {"fc": torch.zeros(SHAPES["fc"])} for g in draw(2, 0)]
    found, _ = step(compressors, silent)

    assert not found[0]["fc"].any()
    assert not error(compressors[0], "fc").any()
    assert compressors[0].slots["fc"].basis is None
    for k in range(1, 30):
        found, _ = step(compressors, draw(2, 1))
        assert all(torch.isfinite(part).all() for part in found[0].values()), k
    assert found[0]["fc"].norm() > 0.5


def test_a_basis_that_meets_nothing_of_the_gradient_is_drawn_anew():
    compressors = workers(2)
    gradient = torch.zeros(SHAPES["fc"])
    gradient[:, 0] = 1.0
    away = torch.eye(9)[:, 3:5].contiguous()
    for compressor in compressors:
        compressor.slots["fc"].basis = away.clone()
    gradients = [g | {"fc": gradient} for g in draw(2, 0)]
    first, _ = step(compressors, gradients)
    second, _ = step(compressors, gradients)

    assert not first[0]["fc"].any()
    assert_parity(second[0]["fc"], 2 * gradient, kind="float32")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("form", ["power", "gather", "shared"])
def test_a_gradient_that_is_not_finite_is_seen_by_all_and_kept_by_none(form: str, bad: float):
    compressors = workers(2, form=form, refresh=4)
    for k in range(2):
        step(compressors, draw(2, k))
    before = [c.state() for c in compressors]
    gradients = draw(2, 2)
    gradients[1]["conv"][0, 0, 0, 0] = bad
    found, _ = step(compressors, gradients)

    for compressor, old, got in zip(compressors, before, found, strict=True):
        assert not torch.isfinite(got["conv"]).all()
        assert torch.isfinite(got["fc"]).all()
        for key, tensor in compressor.state().items():
            assert key == "step" or "conv" not in key or torch.equal(tensor, old[key])


@pytest.mark.parametrize("form", ["power", "gather", "shared"])
def test_a_whole_gradient_that_is_not_finite_breaks_no_refresh(form: str):
    compressors = workers(2, form=form, energy=0.9, rank=0, refresh=3)
    gradients = draw(2, 0)
    gradients[0]["conv"].fill_(torch.nan)
    found, _ = step(compressors, gradients)

    assert found[1]["conv"].isnan().all()
    assert compressors[0].slots["conv"].rank == 1
    for k in range(1, 5):
        found, _ = step(compressors, draw(2, k))
        assert all(torch.isfinite(part).all() for part in found[0].values())
    assert compressors[0].slots["conv"].rank > 1


@pytest.mark.parametrize(
    ("rows", "columns", "rank"),
    [(64, 576, 1), (128, 1152, 3), (256, 2304, 6), (512, 4608, 13), (4096, 1024, 24)],
)
def test_the_rank_follows_from_the_share(rows: int, columns: int, rank: int):
    assert PCASettings().rank_of(rows, columns) == rank


@examples(deadline=None)
@given(
    st.integers(2, 300),
    st.integers(2, 300),
    st.sampled_from(["power", "shared", "gather"]),
    st.floats(0.005, 1.0),
    st.booleans(),
)
def test_the_share_is_kept_wherever_rank_1_keeps_it(
    rows: int, columns: int, form: str, share: float, broadcast: bool
):
    settings = PCASettings(form=form, share=share, min_rate=0, broadcast=broadcast)
    rank = settings.rank_of(rows, columns)

    assert 1 <= rank <= min(rows, columns)
    assert rank == 1 or settings.payload(rows, columns, rank) <= share * rows * columns * (1 + 1e-9)


@pytest.mark.parametrize(("rows", "columns", "rank"), [(10, 512, 1), (32, 75, 1), (3, 5, 0)])
def test_a_small_layer_is_compressed_only_if_it_pays(rows: int, columns: int, rank: int):
    assert PCASettings().rank_of(rows, columns) == rank
    assert PCASettings(min_rate=0).rank_of(rows, columns) == 1


@pytest.mark.parametrize("form", ["power", "shared", "gather"])
def test_the_rank_by_energy_is_the_least_that_holds_it(form: str):
    compressors = workers(2, form=form, rank=0, energy=0.8, refresh=5)
    gradients = draw(2, 0)
    step(compressors, gradients)

    for name in MATRICES:
        squares = torch.linalg.svdvals(as_matrix(mean(gradients, name))).square()
        held = squares.cumsum(0) / squares.sum()
        rank = compressors[1].slots[name].rank
        assert held[rank - 1] >= 0.8 > (held[rank - 2] if rank > 1 else 0.0)


def test_ranks_and_bases_are_those_of_the_first_worker():
    """Machines differ in their last bits; a rank that differs would end in a hang."""
    compressors = workers(2, form="shared", rank=0, energy=0.8)
    running = [c.compress(g) for c, g in zip(compressors, draw(2, 0), strict=True)]
    pending = [next(r) for r in running]
    sizes = []
    for _ in range(3):
        answer = together(pending)
        if pending[0].kind == "broadcast" and not sizes:
            answer = torch.tensor([3.0, 1.0])  # as if the first worker had seen other numbers
            sizes = [3, 1]
        pending = [r.send(answer) for r in running]
    for generator in running:
        assert next(_ended(generator, together(pending)))

    assert [compressors[1].slots[n].rank for n in MATRICES] == [3, 1]
    assert [c.tensor.numel() for c in pending] == [3 * 18 + 9] * 2


def test_a_layer_that_no_longer_pays_travels_whole_until_the_next_refresh():
    compressors = workers(2, rank=0, energy=0.999, refresh=2, min_rate=1.0)
    gradients = draw(2, 0)
    for k in range(2):
        found, _ = step(compressors, gradients)
        assert compressors[0].slots["conv"].rank == 0, k
        assert_parity(found[0]["conv"], mean(gradients, "conv"), kind="float32")
    low = draw(2, 0, rank=1)
    step(compressors, [{n: g[n] / 2 for n in SHAPES} for g in low])
    assert compressors[0].slots["conv"].rank == 1


@pytest.mark.parametrize(
    ("changes", "warm", "first", "after"),
    [
        ({"form": "power"}, 159, 104, 104),
        ({"form": "power", "broadcast": True}, 159, 126, 126),
        ({"form": "shared"}, 159, 159 + 2 * 27, 28),
        ({"form": "gather"}, 159, 6 + 2 * 38 + 27, 6 + 2 * 38 + 27),
        ({"form": "none"}, 159, 159, 159),
    ],
)
def test_the_bytes_are_those_of_the_formula(
    changes: dict[str, Any], warm: int, first: int, after: int
):
    """Conv 6 x 18, bias 6, fc 5 x 9, rank 2: 159 numbers in all."""
    compressors = workers(2, start=1, refresh=9, **changes)
    counted = []
    for k in range(4):
        _, happened = step(compressors, draw(2, k))
        assert compressors[1].last.payload == sum(4 * c.tensor.numel() for _, c in happened)
        counted.append(compressors[1].last.payload // 4)
    power = 6 + 2 * (6 + 18) + 2 * (5 + 9)
    expected = {104: power, 126: power + 2 * 11}
    assert counted == [warm, *(expected.get(n, n) for n in (first, after, after))]
    total = compressors[0].traffic
    assert sum(t.payload for t in total.values()) == 4 * sum(counted)
    assert sum(t.steps for t in total.values()) == 4


@pytest.mark.parametrize(
    ("kind", "wire"),
    [("mean", [0, 400, 600]), ("gather", [0, 400, 1200]), ("broadcast", [0, 200, 300])],
)
def test_the_wire_is_estimated_as_for_a_ring(kind: Any, wire: list[int]):
    collective = Collective(kind, torch.zeros(100))

    assert [collective.wire(n) for n in (1, 2, 4)] == wire


@pytest.mark.parametrize("form", ["power", "gather", "shared"])
def test_a_restored_worker_goes_on_with_the_same_bits(form: str):
    whole = workers(2, form=form, refresh=3)
    for k in range(4):
        step(whole, draw(2, k))
    new = workers(2, form=form, refresh=3)
    for compressor, old in zip(new, whole, strict=True):
        compressor.restore(old.state())
    for k in range(4, 8):
        found, _ = step(whole, draw(2, k))
        same, _ = step(new, draw(2, k))
        assert all(torch.equal(found[0][n], same[0][n]) for n in SHAPES)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"basis.fc": torch.zeros(8, 2)}, "basis.fc does not fit"),
        ({"error.conv": torch.zeros(6, 2, 3, 3)}, "error.conv does not fit"),
        ({"rank.other": torch.tensor(1)}, "'other' is missing or unknown"),
        ({"step": None}, "'step' is missing"),
        ({"rank.fc": None}, "fc does not fit"),
    ],
)
def test_a_state_of_another_network_is_refused_and_changes_nothing(
    change: dict[str, Tensor | None], said: str
):
    (compressor,) = workers(1)
    step([compressor], draw(1, 0))
    state = {k: t for k, t in (compressor.state() | change).items() if t is not None}
    (new,) = workers(1)

    with pytest.raises(UsageError, match=said):
        new.restore(state)
    assert new.step == 0


def test_a_step_that_breaks_off_changes_nothing():
    compressors = workers(2)
    step(compressors, draw(2, 0))
    before = compressors[0].state()
    running = compressors[0].compress(draw(2, 1)[0])
    answer = next(running).tensor
    running.send(answer)
    running.close()

    assert all(torch.equal(before[k], t) for k, t in compressors[0].state().items())


def test_parameters_may_come_in_several_calls():
    whole, parts = workers(2), workers(2)
    for k in range(3):
        gradients = draw(2, k)
        found, _ = step(whole, gradients)
        for names in (("fc",), ("bias", "conv")):
            got, _ = step(parts, [{n: g[n] for n in names} for g in gradients])
            for compressor in parts:
                compressor.step = k
            assert all(torch.equal(found[0][n], got[0][n]) for n in names)
        for compressor in parts:
            compressor.step = k + 1


@examples(max_examples=20, deadline=None)
@given(st.sampled_from([torch.float16, torch.bfloat16, torch.float64]), st.integers(0, 99))
def test_factors_are_float32_whatever_the_gradients_are(kind: torch.dtype, seed: int):
    compressors = workers(2, rank=99)
    gradients = [{n: t.to(kind) for n, t in g.items()} for g in draw(2, seed)]
    found, happened = step(compressors, gradients)

    assert {c.tensor.dtype for pair in happened[1:] for c in pair} == {torch.float32}
    assert all(part.dtype == kind for part in found[0].values())
    gap = (found[0]["conv"].double() - mean(gradients, "conv").double()).abs().max()
    assert gap < (0.05 if kind != torch.float64 else 1e-5)


def test_without_warm_start_every_step_draws_another_basis_from_the_seed():
    one, same, other = (workers(2, warm_start=False, seed=s) for s in (0, 0, 1))
    runs = [[step(w, draw(2, 0))[0][0]["conv"] for _ in range(2)] for w in (one, same, other)]

    assert torch.equal(runs[0][1], runs[1][1])
    assert not torch.equal(runs[0][0], runs[2][0])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"form": "svd"}, "expected power or shared or gather or none"),
        ({"share": 0.0}, "share = 0.0: out of range"),
        ({"rank": -1}, "rank = -1"),
        ({"energy": 1.5}, "energy = 1.5"),
        ({"refresh": 0}, "refresh = 0"),
        ({"start": -1}, "start = -1"),
        ({"min_rate": float("inf")}, "min_rate = inf"),
        ({"error": "both"}, "error = 'both'"),
        ({"seed": -1}, "seed = -1"),
        ({"rank": 2, "energy": 0.5}, "two rules for one rank"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any], said: str):
    with pytest.raises(UsageError, match=said):
        PCASettings(**changes)


def test_a_tenth_of_the_run_is_plain():
    assert [PCASettings.for_steps(n).start for n in (5, 100, 1000)] == [2, 10, 100]
    assert PCASettings.for_steps(1000, rank=3, start=7) == PCASettings(rank=3, start=7)
