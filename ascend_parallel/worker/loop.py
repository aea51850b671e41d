"""The worker's life: build -> BUILD_FINISH -> (PREDICT -> REPLY | ERROR)* -> EXIT."""

from __future__ import annotations

import os
import threading
import time
import traceback
from typing import Any, Dict, Optional, Sequence, Tuple

import numpy as np

from .building import Engines, build, close_all
from .engines.base import BROKEN, Arrays, EngineBroken, Run
from .memory import MappedSegments, SharedArray
from .protocol import BUILD_FINISH, ERROR, EXIT, Channel, decode, decode_chunk, encode_reply
from .results import describe_error, write_to_destinations

#: Parts of messages whose arrays are kept: the same come again with the same blocks of memory. A map over 256 devices
#: has 1025 calls in flight, each in two blocks. With fewer than these, every part would be mapped anew.
MAX_KEPT_PARTS = 4096
#: Chunks that are kept ready to run, by each thread; each costs about as much memory as a dict.
MAX_KEPT_CHUNKS = 256
#: How long the other threads may take to close their engines after EXIT; the master waits a little longer.
CLOSE_GRACE_S = 3.0


def run(channel: Channel, memory: MappedSegments) -> None:
    """Build what the master orders, then serve until it says EXIT."""
    build_request = channel.receive()
    try:
        engines, description = build(build_request, build_request["instances"])
    except Exception as error:
        channel.send((ERROR, None) + describe_error(error))
        return
    server = Server(channel, memory)
    threads = [threading.Thread(target=server.serve_or_die, args=(shared,), daemon=True) for shared in engines[1:]]
    for thread in threads:
        thread.start()
    channel.send((BUILD_FINISH, description))
    server.serve(engines[0])
    close_all(engines[0])
    end_s = time.monotonic() + CLOSE_GRACE_S
    for thread in threads:
        thread.join(max(0.0, end_s - time.monotonic()))


class Chunk:
    """What a PREDICT asks for, its arrays mapped.

    Attributes:
        run: computes it; None until an engine is bound to its arrays.
    """

    __slots__ = ("destinations", "inputs", "model", "names", "run")

    def __init__(
        self, model: str, names: Optional[Sequence[str]], inputs: Sequence[np.ndarray], destinations: Arrays
    ) -> None:
        self.model = model
        self.names = names
        self.inputs = inputs
        self.destinations = destinations
        self.run: Optional[Run] = None


class Server:
    """Takes messages from the pipe and answers them, from as many threads as there are instances."""

    def __init__(self, channel: Channel, memory: MappedSegments) -> None:
        self._channel = channel
        self._memory = memory
        self._receiving = threading.Lock()
        self._sending = threading.Lock()
        self._leaving = False
        self._generation = 0
        self._inputs: Dict[bytes, Tuple[str, Any, Sequence[SharedArray]]] = {}
        self._destinations: Dict[bytes, Dict[str, SharedArray]] = {}

    def serve(self, engines: Engines) -> None:
        """Answer one message after the other; return at EXIT."""
        kept: Dict[bytes, Chunk] = {}
        generation = 0
        while True:
            with self._receiving:
                message = None if self._leaving else self._channel.receive()
                if message is None or message[0] == EXIT:
                    self._leaving = True
                    return
                _, task, encoded, retired = message
                if retired:
                    self._forget(retired)
                if generation != self._generation:
                    kept.clear()
                    generation = self._generation
                chunk = kept.get(encoded)
                if chunk is None:
                    if len(kept) >= MAX_KEPT_CHUNKS:
                        kept.clear()
                    chunk = kept[encoded] = self._map_chunk(encoded)
            self._compute(task, chunk, engines)
            del chunk  # the next wait must not hold the memory of this chunk

    def _compute(self, task: int, chunk: Chunk, engines: Engines) -> None:
        started_ns = time.perf_counter_ns()
        try:
            run = chunk.run
            if run is None:
                run = chunk.run = engines[chunk.model].bind(chunk.names, chunk.inputs, chunk.destinations)
            results = run()
            is_placed = write_to_destinations(results, chunk.destinations)
        except EngineBroken:
            os._exit(BROKEN)
        except Exception as error:
            self._send((ERROR, task) + describe_error(error))
        else:
            self._reply(task, None if is_placed else results, started_ns)

    def serve_or_die(self, engines: Engines) -> None:
        """Serve from a thread; a fault of the worker itself ends the process, as in the main thread."""
        try:
            self.serve(engines)
            close_all(engines)
        except EOFError:
            pass  # the master is gone: the main thread and the parent watch see it too
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    def _map_chunk(self, encoded: bytes) -> Chunk:
        inputs, destinations, start, rows = decode_chunk(encoded)
        if len(self._inputs) + len(self._destinations) >= MAX_KEPT_PARTS:
            self._forget(())
        found = self._inputs.get(inputs)
        if found is None:
            model, names, descriptors = decode(inputs)
            found = self._inputs[inputs] = (model, names, [self._memory.shared_array(d, False) for d in descriptors])
        targets = self._destinations.get(destinations)
        if targets is None:
            targets = {name: self._memory.shared_array(d, True) for name, d in decode(destinations)}
            self._destinations[destinations] = targets
        model, names, shared_arrays = found
        arrays = [shared_array.rows(start, rows) for shared_array in shared_arrays]
        return Chunk(model, names, arrays, {name: array.rows(start, rows) for name, array in targets.items()})

    def _forget(self, retired: Sequence[int]) -> None:
        """Drop all that was kept, and unmap the segments that the master has given up."""
        self._generation += 1
        self._inputs.clear()
        self._destinations.clear()
        self._memory.forget(retired)

    def _reply(self, task: int, results: Optional[Arrays], started_ns: int) -> None:
        finished_ns = time.perf_counter_ns()
        with self._sending:
            outputs = None
            if results is not None:
                outputs = list(zip(results, self._memory.publish(list(results.values()))))
            self._channel.send_frame(encode_reply(task, outputs, started_ns, finished_ns))

    def _send(self, message: Any) -> None:
        with self._sending:
            self._channel.send(message)
