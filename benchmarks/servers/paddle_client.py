"""Asks a server by Paddle Serving's own client, over gRPC. Python 3.8.

``python paddle_client.py PORT``: reads a JSON list of feeds from stdin, and writes the list of the answers to stdout.
"""

from __future__ import annotations

import contextlib
import json
import sys

from paddle_serving_server.pipeline import PipelineClient


def main() -> None:
    """Ask for each feed."""
    feeds = json.load(sys.stdin)
    client = PipelineClient()
    answers = []
    with contextlib.redirect_stdout(sys.stderr):  # the client prints what it does
        client.connect([f"127.0.0.1:{sys.argv[1]}"])
        for number, feed in enumerate(feeds):
            answer = client.predict(feed_dict=dict(feed), log_id=number)
            values = dict(zip(answer.key, answer.value))
            answers.append({"err_no": answer.err_no, "err_msg": answer.err_msg, "values": values})
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
