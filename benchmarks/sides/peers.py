"""The peers."""

from __future__ import annotations

from typing import NamedTuple

#: The metrics; "cpu" is measured along with "stream".
QUESTIONS = ("latency", "stream", "cpu")
#: Metric -> our and a peer's milliseconds in each round.
Rounds = dict[str, list[tuple[float, float]]]


class Peer(NamedTuple):
    """One way to run a model.

    Attributes:
        title: the title in tables.
        side: module:Class in this folder.
        package: the package that it needs.
        has_processes: False for a single process, which sends no data.
        takes_mindir: whether it runs MINDIR models, not ONNX models.
        ours: what it is compared with: one of :data:`OURS`.
    """

    title: str
    side: str
    package: str = "onnxruntime"
    has_processes: bool = True
    takes_mindir: bool = False
    ours: str = "processes"


#: ascend_parallel, with worker processes and with threads.
OURS = {"processes": Peer("ours", "ours:Ours"), "threads": Peer("ours, threads", "ours:OursInThreads")}
PEERS = {
    "pipes": Peer("pickled pipes (the tutorial)", "pipes:Pipes"),
    "executor": Peer("ProcessPoolExecutor", "executors:ProcessPool"),
    "pool": Peer("multiprocessing.Pool", "pool:Pool"),
    "mpire": Peer("mpire", "mpire_pool:Mpire", "mpire"),
    "loky": Peer("loky", "executors:Loky", "loky"),
    "joblib": Peer("joblib", "joblib_pool:Joblib", "joblib"),
    "ray": Peer("Ray actors", "ray_actors:RayActors", "ray"),
    "ort-default": Peer("onnxruntime, default threads", "alone:Default", has_processes=False),
    "ort-threads": Peer("onnxruntime, 2 threads", "alone:TwoThreads", has_processes=False),
    "ort-callers": Peer("onnxruntime, 2 callers", "alone:TwoCallers", has_processes=False),
    "threads-ort-threads": Peer(
        "threads: onnxruntime, 2 threads", "alone:TwoThreads", has_processes=False, ours="threads"
    ),
    "threads-ort-callers": Peer(
        "threads: onnxruntime, 2 callers", "alone:TwoCallers", has_processes=False, ours="threads"
    ),
    "mslite": Peer(
        "ModelParallelRunner (MINDIR)",
        "model_parallel_runner:ModelParallelRunner",
        has_processes=False,
        takes_mindir=True,
    ),
}
