"""How many small calls a second the server answers through each front, beside a bare handler on the same front.

    python bench/front.py [--rounds 3] [--seconds 4] [--connections 8] [--streams 16] [--json]

The calls are UpdateStatus (a heartbeat) and GetMetadata of a small record. The bare handler has the bytes of its answer at hand:
what is between the two is Peerload, what is below is the front. The load is made by h2load (Debian: nghttp2-client), in one thread,
so on a machine of two cores it takes one. The processor time of the server's process per call says more than the rate where others
use the machine too. Rounds alternate; each figure is the median of them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import grpc

from peerload.server.calls import Calls
from peerload.server.front import Context, Front, Methods, UnaryMethod
from peerload.server.front_grpc import GrpcFront
from peerload.server.front_h2corn import H2cornFront
from peerload.wire import p2p_pb2

FRONTS: Final[dict[str, Callable[[Methods], Front]]] = {"grpc": GrpcFront, "h2corn": H2cornFront}
P2P: Final = "/model_express.p2p.P2pService/"
TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Measured:
    """One method through one front: calls a second, and microseconds of the server's processor time for each."""

    front: str
    method: str
    calls: float
    bare_calls: float
    cpu_us: float
    bare_cpu_us: float

    @property
    def ratio(self) -> float:
        """The server's rate as a part of the bare handler's."""
        return self.calls / self.bare_calls


def record() -> p2p_pb2.PublishMetadataRequest:
    """A small one, as stock workers publish."""
    return p2p_pb2.PublishMetadataRequest(
        identity=p2p_pb2.SourceIdentity(mx_version="0.7.0", model_name="org/model", dtype="bfloat16"),
        worker=p2p_pb2.WorkerMetadata(
            metadata_endpoint="10.0.0.1:5555",
            agent_name="agent",
            worker_grpc_endpoint="10.0.0.1:6555",
            status=p2p_pb2.SOURCE_STATUS_READY,
            accelerator="cuda",
        ),
        worker_id="0a1b2c3d",
    )


def calls(source_id: str) -> dict[str, bytes]:
    """The requests about that record, by method."""
    return {
        "UpdateStatus": p2p_pb2.UpdateStatusRequest(
            mx_source_id=source_id, worker_id="0a1b2c3d", status=p2p_pb2.SOURCE_STATUS_READY, source_load=0.5
        ).SerializeToString(),
        "GetMetadata": p2p_pb2.GetMetadataRequest(mx_source_id=source_id, worker_id="0a1b2c3d").SerializeToString(),
    }


async def serve_bare(front: str, answers: dict[str, str]) -> None:
    """A front whose handlers give these answers (hexadecimal, by method); its address goes to standard output."""

    def answering(answer: bytes) -> UnaryMethod:
        async def call(request: bytes, context: Context) -> bytes:
            return answer

        return UnaryMethod(call)

    methods = {P2P + name: answering(bytes.fromhex(answer)) for name, answer in answers.items()}
    serving = FRONTS[front](Calls().wrap(methods))
    print(await serving.start("127.0.0.1:0"), flush=True)
    await asyncio.Event().wait()
    await serving.stop(0)


@contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process with these arguments, for as long as the block lasts."""
    with subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as made:
        try:
            yield made
        finally:
            made.kill()


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def load(pid: int, address: str, method: str, request: bytes, options: argparse.Namespace) -> tuple[float, float]:
    """Calls a second, and microseconds of the process's time for each. Raises where some were not answered."""
    shape = {"-D": options.seconds, "-c": options.connections, "-m": options.streams, "-t": 1}
    headers = ("-H", "content-type: application/grpc", "-H", "te: trailers")
    with tempfile.NamedTemporaryFile() as body:
        Path(body.name).write_bytes(len(request).to_bytes(5, "big") + request)
        words = ["h2load", *(str(word) for pair in shape.items() for word in pair), "-d", body.name, *headers]
        before = cpu_seconds(pid)
        output = subprocess.run(
            [*words, f"http://{address}{P2P}{method}"], capture_output=True, text=True, check=True
        ).stdout
        spent = cpu_seconds(pid) - before
    found = re.search(r"([\d.]+) req/s", output)
    counted = re.search(r"(\d+) succeeded, (\d+) failed", output)
    if found is None or counted is None or int(counted[2]) or not int(counted[1]):
        raise SystemExit(f"h2load: {output}")
    return float(found[1]), spent / int(counted[1]) * 1e6


def cpu_seconds(pid: int) -> float:
    """The processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def measure(front: str, options: argparse.Namespace) -> Iterator[Measured]:
    """Every method through one front."""
    address = f"127.0.0.1:{free_port()}"
    words = ("-m", "peerload", "serve", "--listen", address, "--store", "memory:", "--front", front, "--metrics", "off")
    with process(*words) as server, grpc.insecure_channel(address) as channel:
        publish = channel.unary_unary(P2P + "PublishMetadata")
        published = publish(record().SerializeToString(), timeout=30, wait_for_ready=True)
        asked = calls(p2p_pb2.PublishMetadataResponse.FromString(published).mx_source_id)
        answers = {name: channel.unary_unary(P2P + name)(request, timeout=30) for name, request in asked.items()}
        if not p2p_pb2.UpdateStatusResponse.FromString(answers["UpdateStatus"]).success:
            raise SystemExit("the server does not know what was published")
        bare_words = (__file__, "--bare", front, json.dumps({name: data.hex() for name, data in answers.items()}))
        with process(*bare_words) as bare:
            assert bare.stdout is not None
            bare_address = bare.stdout.readline().strip()
            for name, request in asked.items():
                ours, theirs = [], []
                for _ in range(options.rounds):
                    ours.append(load(server.pid, address, name, request, options))
                    theirs.append(load(bare.pid, bare_address, name, request, options))
                medians = [statistics.median(each) for pairs in (ours, theirs) for each in zip(*pairs, strict=True)]
                yield Measured(front, name, medians[0], medians[2], medians[1], medians[3])


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4, help="of load, for each figure")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--streams", type=int, default=16, help="calls in flight on each connection")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--bare", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        asyncio.run(serve_bare(options.bare[0], json.loads(options.bare[1])))
        return
    if shutil.which("h2load") is None:
        print("there is no h2load (Debian: apt-get install nghttp2-client): nothing is measured")
        return
    found = [measured for front in FRONTS for measured in measure(front, options)]
    if options.json:
        about = {"load_average": os.getloadavg(), "cores": os.cpu_count()}
        print(json.dumps({**about, "measured": [{**asdict(each), "ratio": each.ratio} for each in found]}, indent=2))
        return
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print(f"{'front':8}{'method':14}{'calls/s':>10}{'bare':>10}{'ratio':>7}{'µs/call':>10}{'bare':>7}")
    for each in found:
        print(
            f"{each.front:8}{each.method:14}{each.calls:>10,.0f}{each.bare_calls:>10,.0f}{each.ratio:>7.2f}"
            f"{each.cpu_us:>10.0f}{each.bare_cpu_us:>7.0f}"
        )


if __name__ == "__main__":
    main()
