"""Three Ray nodes on this machine until standard input closes. Prints their address and the raylets' pids."""

from __future__ import annotations

import sys

from trimtab.security import prepare_ray_auth


def main() -> None:
    prepare_ray_auth(create=False)
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 2, "resources": {"learner": 1}, "include_dashboard": False},
    )
    for _ in range(2):
        cluster.add_node(num_cpus=1, resources={"engine": 1})
    print(cluster.address)
    for node in cluster.list_all_nodes():
        (raylet,) = node.all_processes["raylet"]
        print(raylet.process.pid)
    sys.stdout.flush()
    sys.stdin.read()
    cluster.shutdown()


if __name__ == "__main__":
    main()
