"""A Ray cluster in a process of its own: ``python nodes.py``; commands on stdin, one answer each on stdout.

The head has two devices, and so has each node that ``add`` adds. ``remove N`` ends one as a crash does. The end of
stdin ends the cluster. Ray's own class for tests leaves processes to the garbage collector, which pytest takes for an
error.
"""

import json
import os
import sys

DEVICES = 2
NODE = {"num_cpus": DEVICES, "resources": {"NPU": DEVICES}, "object_store_memory": 200 << 20}


def main():
    from ray.cluster_utils import Cluster

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what Ray prints is no answer
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    nodes = {}
    print(json.dumps(cluster.address), file=answers, flush=True)
    for line in sys.stdin:
        command, _, number = line.strip().partition(" ")
        answer = len(nodes)
        if command == "add":
            nodes[answer] = cluster.add_node(**NODE)
        elif command == "remove":
            cluster.remove_node(nodes[int(number)], allow_graceful=False)
        elif command == "wait":
            cluster.wait_for_nodes()
        print(json.dumps(answer), file=answers, flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
