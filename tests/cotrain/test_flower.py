"""FedAvg and FedDIP as Flower runs them, in one process: its messages, its apps, its rounds."""

import sys
from collections.abc import Iterable
from typing import Any

import pytest
import torch


flwr = pytest.importorskip("flwr.app", reason="needs the extra cotrain")

from flwr.app import (  # noqa: E402
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)  # fmt: skip
from flwr.serverapp import Grid  # noqa: E402
from flwr.supercore.task_identity import TaskIdentity  # noqa: E402

from device_agent.flower import QUIET, client_app, need_flower, server_app  # noqa: E402
from device_agent.flower._parcel import FIELD, RECORD, pack, record_bytes, unpack  # noqa: E402
from device_agent.flower._strategy import FedDIPStrategy  # noqa: E402
from edge_stl.cotrain import (  # noqa: E402
    SERVER,
    FedClient,
    FedDIPSettings,
    FedServer,
    Ledger,
    run_server,
)  # fmt: skip
from edge_stl.errors import DataError, ResourceError, UsageError  # noqa: E402
from tests.cotrain.test_feddip import federation  # noqa: E402


@pytest.fixture(autouse=True)
def _task(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages can only be made by a process that has a task."""
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


class OneProcess(Grid):
    """A grid whose nodes are ClientApps called one after the other, in an odd order."""

    def __init__(self, app: Any, indexes: list[Any], *, absent: Any = ()) -> None:
        self.app, self.absent, self.asked = app, absent, 0
        self.contexts = {
            7_000 - 13 * k: Context(0, 7_000 - 13 * k, {"partition-id": i}, RecordDict(), {})
            for k, i in enumerate(indexes)
        }

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError

    def push_messages(self, messages: Any) -> Any:
        raise NotImplementedError

    def pull_messages(self, message_ids: Any) -> Any:
        raise NotImplementedError

    def get_node_ids(self) -> list[int]:
        return list(self.contexts)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        assert timeout
        replies = []
        for message in messages:
            context = self.contexts[message.metadata.dst_node_id]
            number = int(message.metadata.group_id)
            if (context.node_config["partition-id"], number) in self.absent:
                reply = Message(error=Error(1, "link is\ndown"), reply_to=message)
            else:
                reply = self.app(message, context)
            replies.append(reply)
        return replies[::-1]


DIP = FedDIPSettings(sparsity=0.8, every=3)


def _run(
    settings: FedDIPSettings,
    *,
    indexes: Any = (0, 1, 2),
    absent: Any = (),
    rounds: int = 7,
    speaks_for: Any = (),
) -> tuple[FedServer, Ledger]:
    found: list[tuple[FedServer, Ledger]] = []

    def client(_context: Context, index: int) -> FedClient:
        made = federation(settings, rounds=rounds)[1][index]  # anew for every message
        made.index = dict(speaks_for).get(index, index)
        return made

    app = server_app(
        lambda _: federation(settings, rounds=rounds)[0],
        done=lambda _, server, ledger: found.append((server, ledger)),
        patience=0.1,
    )
    grid = OneProcess(client_app(client), list(indexes), absent=absent)
    app(grid, Context(0, 1, {}, RecordDict(), {}))
    return found[0]


def _alone(settings: FedDIPSettings, **options: Any) -> tuple[FedServer, Ledger]:
    server, boxes = federation(settings, rounds=7)
    ledger = Ledger()
    run_server(server, boxes, ledger=ledger, **options)
    return server, ledger


@pytest.mark.parametrize(
    "settings",
    [DIP, FedDIPSettings.fedavg(), FedDIPSettings(sparsity=0.8, every=3, masks="regrow"),
     FedDIPSettings(sparsity=0.8, every=2, fraction=0.7, start_masks="client")],
    ids=["feddip", "fedavg", "regrow", "a share of the clients"],
)  # fmt: skip
def test_flower_gives_the_bits_and_the_payload_of_the_run_in_one_process(settings: FedDIPSettings):
    server, ledger = _run(settings)
    alone, billed = _alone(settings)

    assert torch.equal(server.vector, alone.vector)
    assert not server.refused
    for node in (SERVER, 0, 1, 2):
        for a, b in zip(ledger.sent[node], billed.sent[node], strict=True):
            assert (a.values, a.indices) == (b.values, b.indices)
            assert a.headers >= b.headers


def test_the_ledger_has_the_bytes_of_every_record():
    _, ledger = _run(FedDIPSettings.fedavg())
    server, boxes = federation(FedDIPSettings.fedavg(), rounds=7)
    order = server.configure(0)[0]
    reply = boxes[0].answer(order)
    hello = RecordDict({"hello": ConfigRecord({"index": 0})})

    assert ledger.sent[0][1].total == record_bytes(pack(reply)) > len(reply)
    assert ledger.sent[SERVER][1].total == 3 * record_bytes(pack(order))
    assert ledger.sent[0][0].total - ledger.sent[0][1].total == record_bytes(hello)


def test_a_client_that_fails_is_missing_from_the_round_and_comes_back():
    server, ledger = _run(DIP, absent=[(1, 2), (1, 3), (0, 5)])
    alone, _ = _alone(DIP, gone=lambda n: {2: (1,), 3: (1,), 5: (0,)}.get(n, ()))

    assert torch.equal(server.vector, alone.vector)
    assert all("link is down; expected an answer" in line for line in server.refused)
    assert len(server.refused) == 3
    assert ledger.sent[1][2].messages == ledger.sent[1][3].messages == 0


def test_a_node_cannot_answer_for_another():
    liar = FedDIPSettings.fedavg()
    server, ledger = _run(liar, speaks_for={1: 0})
    alone, _ = _alone(liar, gone=lambda _: (1,))

    assert torch.equal(server.vector, alone.vector)
    said = "an answer of client 1 that says it is of client 0"
    assert [said in line for line in server.refused] == [True] * 7
    assert ledger.sent[1][3].messages == 1


@pytest.mark.parametrize(
    ("indexes", "said"),
    [([0, 1], "2 of 3 clients within 0.1 s"), ([0, 1, 9], "2 of 3 clients"), ([], "0 of 3")],
    ids=["one missing", "one with a wrong number", "none"],
)
def test_too_few_clients_are_told_of(indexes: list[int], said: str):
    with pytest.raises(ResourceError, match=rf"\A[^\n]*{said}[^\n]*\Z"):
        _run(DIP, indexes=indexes)


def test_a_node_that_does_not_say_who_it_is_is_refused():
    app = client_app(lambda _context, index: federation(DIP)[1][index])
    grid = OneProcess(app, ["2"])
    (node,) = grid.get_node_ids()
    question = Message(RecordDict(), dst_node_id=node, message_type="query", group_id="0")

    with pytest.raises(UsageError, match="partition-id = '2': expected the client's number"):
        grid.send_and_receive([question], timeout=1)


def test_a_run_that_goes_on_counts_its_rounds_from_where_it_was():
    whole, _ = _alone(DIP)
    server, boxes = federation(DIP, rounds=7)
    for number in range(3):
        orders = server.configure(number)
        server.aggregate(number, [boxes[k].answer(order) for k, order in orders.items()])
    later, _ = federation(DIP, rounds=7)
    later.restore(server.state())
    app = client_app(lambda _context, index: boxes[index])
    seen: list[int] = []
    grid = OneProcess(app, [0, 1, 2])
    for context in grid.contexts.values():
        state = boxes[int(context.node_config["partition-id"])].state()
        context.state["edge-stl client"] = ArrayRecord(
            {key: Array(value.numpy()) for key, value in state.items()}
        )
    strategy = FedDIPStrategy(later, Ledger(), first=3, after=lambda n, _: seen.append(n))
    strategy.start(grid, ArrayRecord(), num_rounds=4)

    assert seen == [3, 4, 5, 6]
    assert torch.equal(later.vector, whole.vector)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (RecordDict(), "without readable bytes"),
        (RecordDict({RECORD: MetricRecord({"a": 1})}), "without readable bytes"),
        (RecordDict({RECORD: ArrayRecord({"other": Array(torch.zeros(3).numpy())})}), "KeyError"),
        (RecordDict({RECORD: ArrayRecord({FIELD: Array(torch.zeros(3).numpy())})}), "of float32"),
        (RecordDict({RECORD: ArrayRecord({FIELD: Array("uint8", (2,), "numpy.ndarray", b"x")})}),
         "without readable bytes"),
    ],
    ids=["nothing", "a metric", "another name", "floats", "no array"],
)  # fmt: skip
def test_a_message_without_our_bytes_is_refused_in_one_line(content: RecordDict, said: str):
    message = Message(content, dst_node_id=5, message_type="train")

    with pytest.raises(DataError, match=rf"\A[^\n]*{said}[^\n]*\Z"):
        unpack(message)


def test_flower_reports_to_nobody_and_installs_nothing(monkeypatch: pytest.MonkeyPatch):
    for name in QUIET:
        monkeypatch.setenv(name, "changed")
    need_flower()

    import os

    assert {name: os.environ[name] for name in QUIET} == QUIET
    assert QUIET["FLWR_TELEMETRY_ENABLED"] == "0"


def test_without_flower_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    for name in QUIET:
        monkeypatch.setenv(name, "0")
    monkeypatch.setitem(sys.modules, "flwr.app", None)

    with pytest.raises(UsageError, match=r"pip install 'edge-stl\[cotrain\]'"):
        need_flower()
