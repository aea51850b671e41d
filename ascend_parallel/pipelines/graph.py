"""The graph of a pipeline: which op reads what of which others."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ascend_parallel.errors import UsageError
from ascend_parallel.worker.ops.paddle_stand_ins import REQUEST_NAME

#: What an op names as its input to get the request's own inputs.
REQUEST = "request"
#: What Paddle Serving's ops call it.
PADDLE_REQUEST = REQUEST_NAME
#: As in YAML: "detect", ["request", "detect"], or {"image": "request.image", "boxes": "detect.boxes"}.
Sources = str | Sequence[str] | Mapping[str, str]
Values = Mapping[str, Any]


class Source(NamedTuple):
    """One thing that is read.

    Attributes:
        name: what it is called where it is read; None: what its op calls it.
        op: the op, or :data:`REQUEST`.
        output: the output of the op; None: all of them.
    """

    name: str | None
    op: str
    output: str | None


Wiring = tuple[Source, ...]


def read_sources(sources: Sources) -> Wiring:
    """Return what ``inputs`` or ``outputs`` of the configuration say."""
    if isinstance(sources, str):
        return (_read_source(None, sources),)
    if isinstance(sources, Mapping):
        return tuple([_read_source(name, text) for name, text in sources.items()])
    return tuple([_read_source(None, text) for text in sources])


def _read_source(name: str | None, text: str) -> Source:
    op, dot, output = text.partition(".")
    return Source(name, op, output if dot else None)


class GraphProblem(NamedTuple):
    """Something wrong in a graph.

    Attributes:
        op: the position of the op; None: the pipeline's ``outputs``.
        setting: the path from the op to the setting, such as ("inputs", 1); () for the whole op.
        message: a sentence without its subject, such as "names the op 'detct'; did you mean 'detect'?".
    """

    op: int | None
    setting: tuple[str | int, ...]
    message: str


class Graph:
    """A graph without mistakes.

    Attributes:
        ops: the names of all ops, each behind those that it reads.
        wirings: op -> what it reads.
        sources: op -> the ops that it waits for, :data:`REQUEST` included; each once.
        readers: op or :data:`REQUEST` -> the ops that read it.
        answer: what the pipeline's outputs are made of.
        answer_ops: the ops that the answer waits for.
    """

    def __init__(self, inputs: Mapping[str, Sources], outputs: Sources | None, by_op: Collection[str] = ()) -> None:
        """Take what each op reads, and what the answer is; raises UsageError if :func:`find_problems` finds any."""
        problems = list(find_problems(list(inputs.items()), outputs, by_op))
        if problems:
            raise UsageError("\n".join(problem.message for problem in problems))
        self.wirings = {op: read_sources(sources) for op, sources in inputs.items()}
        self.sources = {op: _ops_of(wiring) for op, wiring in self.wirings.items()}
        self.readers: dict[str, list[str]] = {name: [] for name in (REQUEST, *inputs)}
        for op, sources in self.sources.items():
            for source in sources:
                self.readers[source].append(op)
        self.ops = list(_sort(self.sources))
        self.answer = read_sources(outputs if outputs is not None else _find_last(self.readers))
        self.answer_ops = _ops_of(self.answer)


def collect(reader: str, wiring: Wiring, values: Mapping[str, Values]) -> dict[str, Any]:
    """Return what an op reads, by the names that it has there.

    Args:
        reader: who reads, for messages.
        wiring: what is read.
        values: op -> its outputs.

    Raises:
        UsageError: an op did not give an output that is read, or two give one of the same name.
    """
    found: dict[str, Any] = {}
    for source in wiring:
        given = values[source.op]
        if source.output is None:
            read = given
        elif source.output in given:
            read = {source.name or source.output: given[source.output]}
        else:
            there = ", ".join(given) or "nothing"
            raise UsageError(f"{reader} reads {source.op}.{source.output}, but {source.op} has {there}")
        for name, value in read.items():
            if name in found:
                raise UsageError(
                    f"{reader} reads {name!r} twice, the second time from {source.op}; say which one it gets by a "
                    f"mapping, such as {{{name}: {source.op}.{name}}}"
                )
            found[name] = value
    return found


def collect_by_op(wiring: Wiring, values: Mapping[str, Values]) -> dict[str, Values]:
    """Return what an op of Paddle Serving reads, by the ops that it comes from; the request has its name there."""
    names = [source.name or (PADDLE_REQUEST if source.op == REQUEST else source.op) for source in wiring]
    return {name: values[source.op] for name, source in zip(names, wiring, strict=True)}


# ---- what may be wrong


def find_problems(
    ops: Sequence[tuple[str, Sources]], outputs: Sources | None, by_op: Collection[str] = ()
) -> Iterator[GraphProblem]:
    """Yield all that is wrong in a graph: names, cycles, and what nobody reads.

    Args:
        ops: the name and the inputs of each op.
        outputs: what the answer is; None: the outputs of the only op that no other reads.
        by_op: the ops that get their inputs by op, and all that each gives.
    """
    problems = [*_check_names(ops), *_check_wirings(ops, outputs, by_op)]
    yield from problems
    if problems:
        return  # what follows from them is no news
    sources = {name: _ops_of(read_sources(given)) for name, given in ops}
    cycle = _find_cycle(sources)
    if cycle:
        position = next(number for number, (name, _) in enumerate(ops) if name == cycle[0])
        way = " -> ".join([*reversed(cycle), cycle[-1]])
        yield GraphProblem(position, ("inputs",), f"make a cycle: {way}; an op cannot wait for its own outputs")
        return
    yield from _check_unread(ops, sources, outputs)


def _check_names(ops: Sequence[tuple[str, Sources]]) -> Iterator[GraphProblem]:
    first: dict[str, int] = {}
    for position, (name, _) in enumerate(ops):
        if name == REQUEST:
            yield GraphProblem(
                position, ("name",), f"is {REQUEST!r}, which names the request's own inputs; choose another name"
            )
        elif first.setdefault(name, position) != position:
            yield GraphProblem(
                position, ("name",), f"is {name!r}, like that of ops[{first[name]}]; choose another name"
            )


def _check_wirings(
    ops: Sequence[tuple[str, Sources]], outputs: Sources | None, by_op: Collection[str]
) -> Iterator[GraphProblem]:
    known = [REQUEST, *(name for name, _ in ops)]
    for position, (name, sources) in enumerate(ops):
        yield from _check_wiring(position, "inputs", sources, known, is_by_op=name in by_op)
    if outputs is not None:
        yield from _check_wiring(None, "outputs", outputs, known[1:])


def _check_wiring(
    op: int | None, setting: str, sources: Sources, known: Sequence[str], *, is_by_op: bool = False
) -> Iterator[GraphProblem]:
    wiring = read_sources(sources)
    if not wiring:
        yield GraphProblem(op, (setting,), f"is empty; expected {_one_of(known)}")
    for place, source in zip(_places_of(sources), wiring, strict=True):
        reason = _why_not_read(source, known, is_by_op=is_by_op)
        if reason:
            yield GraphProblem(op, (setting, *place), reason)
    if not isinstance(sources, str | Mapping):
        yield from _check_twice(op, setting, wiring)


def _places_of(sources: Sources) -> Iterable[tuple[str | int, ...]]:
    """Return where each thing that is read stands."""
    if isinstance(sources, str):
        return [()]
    return [(key,) for key in (sources if isinstance(sources, Mapping) else range(len(sources)))]


def _why_not_read(source: Source, known: Sequence[str], *, is_by_op: bool) -> str:
    if source.op == REQUEST and REQUEST not in known:
        return f"names {REQUEST!r}, which is no op; expected {_one_of(known)}"
    if source.op not in known:
        matches = difflib.get_close_matches(source.op, known, n=1)
        hint = f"did you mean {matches[0]!r}?" if matches else f"expected {_one_of(known)}"
        return f"names the op {source.op!r}, which is not there; {hint}"
    if is_by_op and source.output is not None:
        what = f"names {source.op}.{source.output}; an op of Paddle Serving gets all that an op gives"
        return f"{what}: write {source.op}"
    if source.output == "" or (source.name is not None and source.output is None and not is_by_op):
        return f"names {source.op!r} without an output; expected {source.op}.NAME_OF_AN_OUTPUT"
    return ""


def _check_twice(op: int | None, setting: str, wiring: Wiring) -> Iterator[GraphProblem]:
    """Yield what a list reads a second time: an op of which it has all, or an output of the same name."""
    for number, source in enumerate(wiring):
        for before in wiring[:number]:
            is_whole = None in (source.output, before.output)
            if source.op == before.op and (is_whole or source.output == before.output):
                yield GraphProblem(op, (setting, number), f"reads {source.op!r} a second time; leave it out")
            elif not is_whole and source.output == before.output:
                hint = f"expected a mapping, such as {{one: {before.op}.{before.output}, two: ...}}"
                yield GraphProblem(op, (setting, number), f"reads a second {source.output!r}; {hint}")
            else:
                continue
            break


def _one_of(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _check_unread(
    ops: Sequence[tuple[str, Sources]], sources: Mapping[str, Sequence[str]], outputs: Sources | None
) -> Iterator[GraphProblem]:
    read = {source for names in sources.values() for source in names}
    answer = () if outputs is None else _ops_of(read_sources(outputs))
    unread = [position for position, (name, _) in enumerate(ops) if name not in read and name not in answer]
    if outputs is None and len(unread) > 1:
        names = _one_of([ops[position][0] for position in unread]).replace(" or ", " and ")
        yield GraphProblem(
            None, (), f"has {len(unread)} ops that no other op reads: {names}; say in outputs which is the answer"
        )
    elif outputs is not None:
        for position in unread:
            yield GraphProblem(position, (), "is read by no other op, and is not in outputs; leave it out, or use it")


# ---- the order


def _ops_of(wiring: Iterable[Source]) -> list[str]:
    return list(dict.fromkeys(source.op for source in wiring))


def _sort(sources: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield the ops, each behind those that it reads; ops of a cycle are left out."""
    done = {REQUEST}
    left = list(sources)
    while left:
        ready = [op for op in left if done.issuperset(sources[op])]
        if not ready:
            return
        yield from ready
        done.update(ready)
        left = [op for op in left if op not in done]


def _find_cycle(sources: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the ops of a cycle, each reading the next, the last reading the first; none if there is no cycle."""
    sorted_ops = set(_sort(sources))
    left = [op for op in sources if op not in sorted_ops]
    if not left:
        return []
    way = [left[0]]  # what is left of a graph without its sortable part: each reads another one that is left
    while True:
        op = next(source for source in sources[way[-1]] if source in left)
        if op in way:
            return way[way.index(op) :]
        way.append(op)


def _find_last(readers: Mapping[str, Sequence[str]]) -> str:
    return next(op for op, names in readers.items() if op != REQUEST and not names)
