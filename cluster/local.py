"""Run a Ray cluster of several nodes on this one Linux machine.

    python -m cluster.local --folder /tmp/nodes --nodes 3 --cpus 1                 # as root; Ctrl-C ends it
    python -m cluster.local --folder /tmp/nodes --nodes 3 --cpus 1 --loopback      # without root

By default every node is a network namespace (see cluster/namespaces.py). With --loopback it is an address in
127.0.0.0/8 (see cluster/loopback.py).
"""

from __future__ import annotations

import argparse
import signal
from pathlib import Path

from cluster.loopback import LoopbackCluster
from cluster.namespaces import NamespaceCluster


def main() -> None:
    """Run the cluster until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where Ray's files and the token go")
    parser.add_argument("--nodes", type=int, default=2, help="number of workers, besides the head")
    parser.add_argument("--cpus", type=float, default=1, help="CPUs of each worker")
    parser.add_argument("--loopback", action="store_true", help="loopback addresses: no root, no cables")
    options = parser.parse_args()
    workers = [{"learner": 1.0, "engine": 1.0}] * options.nodes
    made = LoopbackCluster if options.loopback else NamespaceCluster
    with made(options.folder, workers, options.cpus) as cluster:
        print(f"export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={cluster.token}")
        print(f"trimtab submit SPEC --address {cluster.jobs} --image installed", flush=True)
        ends = {signal.SIGINT, signal.SIGTERM}
        # Not earlier: processes that `ray start` starts would inherit the mask.
        signal.pthread_sigmask(signal.SIG_BLOCK, ends)
        signal.sigwait(ends)


if __name__ == "__main__":
    main()
