"""Answers the requests of one task: each is prepared, their feeds are run together, each is finished."""

from __future__ import annotations

from typing import Any, Dict, List, Optional

from ..engines.base import EngineBroken
from .adapter import OpAdapter, Prepared
from .failures import OUTPUT, RequestFailure, WrongFeeds, WrongValue, blame
from .feeds import Feed
from .interface import Skip
from .model_runner import ModelRunner
from .packing import NotPackable, Packed
from .state import Attributes, StateKeeper

#: ``{"outputs": {...}}`` or ``{"error": [kind, code, text, traceback]}``.
Answer = Dict[str, Any]


class Job:
    """One request of a task.

    Attributes:
        entry: what came for it.
        prepared: what preprocess returned.
        state: the attributes of the user's object after its preprocess.
        outputs: what came of each of its feeds.
        failure: why it failed; None as long as it did not.
    """

    __slots__ = ("entry", "failure", "outputs", "prepared", "state")

    def __init__(self, entry: Dict[str, Any]) -> None:
        self.entry = entry
        self.prepared = Prepared([], True)
        self.state: Attributes = {}
        self.outputs: List[Any] = []
        self.failure: Optional[RequestFailure] = None


class RequestRunner:
    """An op, with its model."""

    def __init__(self, name: str, op: OpAdapter, model: Optional[ModelRunner]) -> None:
        """Take the op's name for errors, the op, and its model, None for Python alone."""
        self._where = "op %r" % name
        self._op = op
        self._model = model

    def answer(self, entries: List[Dict[str, Any]]) -> List[Answer]:
        """Return the answer to each request.

        Raises:
            EngineBroken: the engine can compute nothing any more.
        """
        jobs = [Job(entry) for entry in entries]
        keeper = StateKeeper(self._op.target if len(jobs) > 1 else None)
        for job in jobs:
            before = keeper.read()
            self._preprocess(job)
            job.state = keeper.read_changed(before)
        self._run_model([job for job in jobs if job.failure is None])
        answers: List[Answer] = []
        for job in jobs:
            keeper.restore(job.state)
            answers.append(self._postprocess(job))
        return answers

    def pack(self, answers: List[Answer]) -> Packed:
        """Return the reply; an answer that cannot be sent becomes an error."""
        try:
            return Packed(answers)
        except NotPackable:
            return Packed([self._check(answer) for answer in answers])

    def _check(self, answer: Answer) -> Answer:
        try:
            Packed([answer])
        except NotPackable as error:
            text = "%s: %s returned something that cannot be sent: %s"
            failure = RequestFailure(OUTPUT, text % (self._where, self._op.last_step, error.describe(skip=2)))
            return {"error": failure.encode()}
        return answer

    def _preprocess(self, job: Job) -> None:
        try:
            job.prepared = self._op.preprocess(job.entry)
        except EngineBroken:
            raise
        except Exception as error:
            job.failure = blame(self._where, "preprocess", error)

    def _run_model(self, jobs: List[Job]) -> None:
        """Run the feeds of all requests; put outputs and failures where they belong."""
        feeds: List[Feed] = []
        places: List[Any] = []
        for job in jobs:
            job.outputs = [feed.values if isinstance(feed, Skip) else None for feed in job.prepared.feeds]
            own = self._read_feeds(job)
            feeds += own.values()
            places += [(job, position) for position in own]
        if self._model is None or not feeds:
            return
        for (job, position), outcome in zip(places, self._model.run(feeds)):
            if not isinstance(outcome, Exception):
                job.outputs[position] = outcome
            elif job.failure is None:
                job.failure = blame(self._name_feed(job, position), "the model", outcome)

    def _read_feeds(self, job: Job) -> Dict[int, Feed]:
        """Return the feeds of a request by position; none where one of them is wrong."""
        found: Dict[int, Feed] = {}
        for position, feed in enumerate(job.prepared.feeds):
            if isinstance(feed, Skip) or self._model is None:
                continue
            try:
                found[position] = self._model.read(feed)
            except Exception as error:
                origin = self._op.feeds_origin
                if isinstance(error, WrongValue):
                    kind = WrongFeeds if self._op.has_preprocess else WrongValue
                    error = kind("%s does not fit the model: %s" % (origin, error))
                job.failure = blame(self._name_feed(job, position), "reading " + origin, error)
                return {}
        return found

    def _name_feed(self, job: Job, position: int) -> str:
        return "%s, mini-batch %d" % (self._where, position) if job.prepared.is_list else self._where

    def _postprocess(self, job: Job) -> Answer:
        if job.failure is None:
            try:
                return {"outputs": self._op.postprocess(job.entry, job.prepared, job.outputs)}
            except EngineBroken:
                raise
            except Exception as error:
                job.failure = blame(self._where, self._op.last_step, error)
        return {"error": job.failure.encode()}
