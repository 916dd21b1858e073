"""Flower for real: `flwr run` of samples/flower-cotrain, simulated and between processes with TLS.

    python tests/flower_real.py [simulation] [deployment] [--clients 2]

Both must end with the model of the same run without Flower, bit by bit. The deployment is a
SuperLink and SuperNodes on 127.0.0.1 that prove themselves to each other: the SuperLink by its
certificate, each SuperNode by its key; one with a key that is not registered must be left out.
Keys and certificates are made by the commands of the sample's README, with openssl and ssh-keygen.
"""

import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path


ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "samples" / "flower-cotrain"
BIN = Path(sys.executable).parent
PATIENCE = 900.0


def main() -> None:
    """Run what was asked for; exit 1 when a model is another."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("kinds", nargs="*", default=["simulation", "deployment"])
    options.add_argument("--clients", type=int, default=2)
    options.add_argument("--rounds", type=int, default=4)
    options.add_argument("--keep", type=Path, help="an empty folder that keeps logs and models")
    chosen = options.parse_args()
    with ExitStack() as stack:
        here = chosen.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        here.mkdir(parents=True, exist_ok=True)
        flower = Flower(here)
        wanted = flower.alone(chosen.clients, chosen.rounds)
        print(f"without Flower: {wanted[:16]}")
        same = True
        for kind in chosen.kinds:
            began = time.monotonic()
            with ExitStack() as processes:
                connection = getattr(flower, kind)(processes, chosen.clients)
                found = flower.run(connection, chosen.clients, chosen.rounds)
            same &= found == wanted
            word = "the same model" if found == wanted else "ANOTHER MODEL"
            print(f"{kind}: {found[:16]}, {word}, {time.monotonic() - began:.0f} s")
    sys.exit(not same)


class Flower:
    """Flower's commands in a home of their own.

    Args:
        here: an empty folder.
    """

    def __init__(self, here: Path) -> None:
        from device_agent.flower import QUIET

        self.here, self.home = here, here / "home"
        self.home.mkdir()
        self.environment = (
            os.environ
            | dict(QUIET)
            | {
                "FLWR_HOME": str(self.home),
                "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(free_port()),
                "FLWR_LOCAL_CONTROL_API_PORT": str(free_port()),
                "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
                "PYTHONPATH": str(ROOT),
                "OMP_NUM_THREADS": "1",
            }
        )

    def call(self, *words: str, cwd: Path | None = None) -> str:
        """Return what a command prints; it must end well."""
        done = subprocess.run(
            words, cwd=cwd or self.here, env=self.environment, capture_output=True, text=True,
            check=False, timeout=PATIENCE,
        )  # fmt: skip
        if done.returncode:
            sys.exit(f"{' '.join(words)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def alone(self, clients: int, rounds: int) -> str:
        """Return the digest of the model without Flower."""
        out = self.here / "alone"
        self.environment["PYTHONPATH"] = f"{ROOT}{os.pathsep}{SAMPLE}"
        self.call(
            sys.executable, "-m", "flower_cotrain.alone", f"out={out}", f"clients={clients}",
            f"rounds={rounds}",
        )  # fmt: skip
        self.environment["PYTHONPATH"] = str(ROOT)
        return digest(out)

    def run(self, connection: str, clients: int, rounds: int) -> str:
        """Return the digest of the model that `flwr run` ends with."""
        out = self.here / connection
        words = ["flwr", "run", str(SAMPLE), connection, "--stream"]
        words += ["-c", f'out="{out}" clients={clients} rounds={rounds}']
        if connection == "simulation":
            words += ["--federation-config", f"num-supernodes={clients} init-args-num-cpus=2"]
            words += ["--federation-config", "client-resources-num-cpus=1"]
        said = self.call(*words)
        if not (out / "ledger.json").exists():
            sys.exit(f"no model came out:\n{said}\n{self.logs()}")
        if connection == "deployment":
            log = (self.here / "superlink.log").read_text("utf-8", "replace")
            if "No SuperNode found with the given public key" not in log:
                sys.exit(f"the stranger was not turned away:\n{self.logs()}")
        return digest(out)

    def simulation(self, processes: ExitStack, clients: int) -> str:  # noqa: ARG002
        """Make a connection to a SuperLink of its own that simulates the nodes."""
        port = free_port()
        processes.enter_context(
            self.started(
                "superlink-sim", "flower-superlink", "--insecure", "--simulation", "--host",
                "127.0.0.1", "--port", str(port), "--disable-runtime-dependency-installation",
            )
        )  # fmt: skip
        self.connect("simulation", f'address = "127.0.0.1:{port}"\ninsecure = true')
        wait_for(port)
        return "simulation"

    def deployment(self, processes: ExitStack, clients: int) -> str:
        """Start a SuperLink and SuperNodes that trust nobody without a key."""
        port = free_port()
        readme = (SAMPLE / "README.md").read_text("utf-8")
        keys = re.findall(r"^(openssl .*|ssh-keygen .*|echo .*)$", readme, re.MULTILINE)
        for command in keys:
            self.call("bash", "-c", command.replace("192.168.1.10", "127.0.0.1"))
        for k in range(clients + 1):
            if not (self.here / f"box{k}").exists():
                words = ["ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", ""]
                self.call(*words, "-f", f"box{k}")
        processes.enter_context(
            self.started(
                "superlink", "flower-superlink", "--host", "127.0.0.1", "--port", str(port),
                "--ssl-certfile", "server.pem", "--ssl-keyfile", "server.key",
                "--ssl-ca-certfile", "ca.pem", "--enable-supernode-auth",
                "--disable-runtime-dependency-installation",
            )
        )  # fmt: skip
        self.connect(
            "deployment",
            f'address = "127.0.0.1:{port}"\nroot-certificates = "{self.here / "ca.pem"}"',
        )
        wait_for(port)
        for k in range(clients):
            self.call("flwr", "supernode", "register", f"box{k}.pub", "deployment")
        for k in (clients, *range(clients)):  # the first is a stranger who says it is client 0
            processes.enter_context(
                self.started(
                    f"supernode-{k}", "flower-supernode", "--root-certificates", "ca.pem",
                    "--superlink", f"127.0.0.1:{port}", "--auth-supernode-private-key", f"box{k}",
                    "--node-config", f"partition-id={k % clients}", "--host", "127.0.0.1",
                    "--port", str(free_port()),
                )
            )  # fmt: skip
        return "deployment"

    def connect(self, name: str, lines: str) -> None:
        """Write a connection into Flower's configuration."""
        (self.home / "config.toml").write_text(f"[superlink]\n\n[superlink.{name}]\n{lines}\n")

    @contextmanager
    def started(self, name: str, *words: str) -> Iterator[None]:
        """Run a process until the end; its session goes with it."""
        with (self.here / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                words, cwd=self.here, env=self.environment, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        try:
            yield
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def logs(self) -> str:
        """Return the ends of all logs."""
        return "\n".join(
            f"--- {log.name}\n{log.read_text('utf-8', 'replace')[-6000:]}"
            for log in sorted(self.here.rglob("*.log"))
        )


def digest(out: Path) -> str:
    """Return the digest of a model that a run left."""
    return str(json.loads((out / "ledger.json").read_text("utf-8"))["sha256"])


def free_port() -> int:
    """Return a port that nobody uses now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def wait_for(port: int) -> None:
    """Wait until somebody listens."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with socket.socket() as one:
            one.settimeout(1)
            if not one.connect_ex(("127.0.0.1", port)):
                return
        time.sleep(0.3)
    sys.exit(f"nobody listens on port {port}")


if __name__ == "__main__":
    main()
