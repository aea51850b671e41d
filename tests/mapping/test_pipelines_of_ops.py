"""``pipeline:CONFIG.yml``: a pipeline of ops over files, with the manifest and the results of every other pipeline."""

import json
import signal

import numpy as np
import pytest

from ascend_parallel import UsageError, parallel_map

from . import folders, ops_of_files

OPS = ops_of_files.__file__
CONFIG = f"""\
pipelines:
- name: words
  ops:
  - name: look
    python: {OPS}:Files
    devices: cpu:0
    concurrency: 2
    timeout_ms: 1500
    batching: {{max_batch_size: 2}}
- name: other
  ops: [{{name: look, python: "{OPS}:Files"}}]
"""
WORDS = ["config.yml", "--name", "words", "--input-dir", "in", "--output-dir", "out"]


def run(folder, *more, **environ):
    return folders.command(f"pipeline:{WORDS[0]}", *WORDS[1:], *more, cwd=folder, **environ)


@pytest.fixture
def inputs(tmp_path):
    """A folder with a configuration and files."""
    (tmp_path / "config.yml").write_text(CONFIG)
    (tmp_path / "in").mkdir()
    for name, word in {"a.txt": "one", "b.txt": "two", "c.txt": "three"}.items():
        (tmp_path / "in" / name).write_text(word)
    return tmp_path


def test_each_file_is_a_request(inputs):
    np.save(inputs / "in/d.npy", np.arange(3))
    np.savez(inputs / "in/e.npz", data=np.float32([[1, 2]]))
    done = run(inputs, "--verbose")
    assert done.returncode == 0, folders.stderr_of(done)
    assert "5 files, 5 to process, on cpu:0\n2 workers of the pipeline's ops\n" in folders.stderr_of(done)
    assert json.loads((inputs / "out/a.txt.json").read_text()) == {
        "word": "one",
        "words": ["one", "é"],
        "size": 3,
        "x": [1.0, 1.0],
    }
    np.testing.assert_array_equal(np.load(inputs / "out/d.npy.npz")["double"], [0, 2, 4])
    np.testing.assert_array_equal(np.load(inputs / "out/e.npz.npz")["double"], np.float32([[2, 4]]))
    entries = folders.manifest(inputs / "out")
    assert {entry["status"] for entry in entries.values()} == {"ok"}
    assert entries["a.txt"]["device"] == "cpu:0"


def test_lines_of_one_file(inputs):
    assert run(inputs, "--output-format", "jsonl").returncode == 0
    lines = [json.loads(line) for line in (inputs / "out/results.jsonl").read_text().splitlines()]
    assert {line["file"]: line["results"][0]["word"] for line in lines} == {
        "a.txt": "one",
        "b.txt": "two",
        "c.txt": "three",
    }


def test_bad_files_cost_only_themselves(inputs):
    """One is refused, one kills each of its workers, one takes too long, one cannot be read."""
    for name, word in {"d.txt": "refuse", "e.txt": "kill", "f.txt": "hang"}.items():
        (inputs / "in" / name).write_text(word)
    (inputs / "in/g.npy").write_bytes(b"no array")
    for number in range(20):
        (inputs / "in" / f"more{number:02}.txt").write_text("slow")
    done = run(inputs, "--report", "report.html")
    assert done.returncode == 1, folders.stderr_of(done)
    entries = folders.manifest(inputs / "out")
    reasons = {name: entry["reason"] for name, entry in entries.items() if entry["status"] == "error"}
    assert sorted(reasons) == ["d.txt", "e.txt", "f.txt", "g.npy"], reasons
    assert reasons["d.txt"] == "refused: no such word (code 61)"
    assert reasons["e.txt"].startswith("op 'look': ") and "SIGKILL" in reasons["e.txt"]
    assert reasons["f.txt"].startswith("op 'look': ") and "1.5 s" in reasons["f.txt"]
    assert reasons["g.npy"].startswith("it could not be read: ")
    assert all("\n" not in reason for reason in reasons.values())
    assert len(entries) == 27
    assert "4 of 27 files failed" in folders.stderr_of(done)
    assert "refused: no such word" in (inputs / "report.html").read_text()

    (inputs / "in/e.txt").write_text("four")
    done = run(inputs, "--resume", "--retry-failed")
    assert done.returncode == 1
    assert "23 were done before" in folders.stderr_of(done)
    assert folders.manifest(inputs / "out")["e.txt"]["status"] == "ok"


def test_an_interrupted_run_is_resumed(inputs):
    for number in range(200):
        (inputs / "in" / f"more{number:03}.txt").write_text("slow")
    command = [f"pipeline:{WORDS[0]}", *WORDS[1:]]
    with folders.running(*command, cwd=inputs) as process:
        folders.wait_for_lines(inputs / "out/manifest.jsonl", 5)
        process.send_signal(signal.SIGINT)
        process.wait(30)
        assert process.returncode == 130
        assert b"repeat the command with --resume" in process.stderr.read()
    done = run(inputs)
    assert done.returncode == 2
    assert "resume it (--resume)" in folders.stderr_of(done)
    with folders.running(*command, "--resume", cwd=inputs) as process:
        folders.wait_for_lines(inputs / "out/manifest.jsonl", len(folders.manifest(inputs / "out")) + 5)
        process.kill()
    done = run(inputs, "--resume")
    assert done.returncode == 0, folders.stderr_of(done)
    assert len(folders.manifest(inputs / "out")) == 203
    assert len(folders.outputs(inputs / "out")) == 203


@pytest.mark.usefixtures("leaves_nothing")
def test_in_python_with_functions_around_it(inputs):
    numbers = inputs / "numbers"
    numbers.mkdir()
    for number in range(40):
        (numbers / f"{number:02}.txt").write_text(f"{number} 5")
    options = {"name": "words", "preprocess": f"{OPS}:read_numbers", "postprocess": f"{OPS}:first"}
    outcomes = list(parallel_map(f"pipeline:{inputs}/config.yml", numbers, **options))
    assert [outcome.result for outcome in outcomes] == [{"first": 2.0 * number} for number in range(40)]
    outcomes = list(parallel_map(f"pipeline:{inputs}/config.yml", inputs / "in", **options))
    assert len(outcomes) == 3
    for outcome, letter in zip(outcomes, "ott", strict=True):
        assert f"could not convert string to float: '{letter}" in outcome.error
    generator = parallel_map(f"pipeline:{inputs}/config.yml", numbers, **options)
    next(generator)
    generator.close()


@pytest.mark.usefixtures("leaves_nothing")
def test_no_more_files_are_read_than_keep_the_workers_busy(inputs):
    for number in range(60):
        (inputs / "in" / f"more{number:02}.txt").write_text("word")
    functions = {
        "preprocess": f"{ops_of_files.__name__}:read_counted",
        "postprocess": f"{ops_of_files.__name__}:count_out",
    }
    outcomes = list(parallel_map(f"pipeline:{inputs}/config.yml", inputs / "in", name="words", **functions))
    assert len(outcomes) == 63 and all(outcome.ok for outcome in outcomes)
    assert ops_of_files.Counted.now == 0
    assert ops_of_files.Counted.most == 2 * 2 * 2, "two workers, batches of two, and as many that wait"


#: What is wrong -> the arguments of parallel_map, and a part of the message.
MISTAKES = {
    "no file": ({"pipeline": "pipeline:none.yml"}, "there is no configuration file .*none.yml"),
    "several": ({}, "has several pipelines, words, other; say which one: name=..."),
    "another name": ({"name": "word"}, "has no pipeline 'word'; it has: words, other"),
    "devices": ({"name": "words", "devices": "cpu:0"}, "devices does not go with pipeline:.*; leave devices out"),
    "batch size": ({"name": "words", "batch_size": 4}, "batch_size does not go with pipeline:.*each op has"),
    "time": ({"name": "words", "timeout_s": 5.0}, "timeout_s does not go with pipeline:"),
    "options": ({"name": "words", "options": {"a": 1}}, "options does not go with pipeline:"),
    "save": ({"name": "words", "save": "json", "output_dir": "out"}, "save does not go with pipeline:"),
    "threads": ({"name": "words", "workers": "threads"}, "workers does not go with pipeline:"),
    "cluster": ({"name": "words", "cluster": "ray"}, "cluster does not go with pipeline:"),
    "function": ({"name": "words", "preprocess": "a"}, "preprocess is 'a'; expected 'module:function'"),
    "no function": ({"name": "words", "postprocess": "no_such:f"}, "postprocess no_such:f cannot be loaded: "),
    "name of others": (
        {"pipeline": "module:factory", "name": "words"},
        "name says which pipeline of pipeline:CONFIG.yml",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_told_before_anything_is_started(inputs, arguments, message):
    pipeline = f"pipeline:{inputs}/config.yml"
    with pytest.raises(UsageError, match=message):
        parallel_map(**{"pipeline": pipeline, "inputs": inputs / "in", **arguments})
    assert not (inputs / "out").exists()


def test_mistakes_in_the_configuration_have_their_lines(inputs):
    (inputs / "config.yml").write_text(CONFIG.replace("concurrency: 2", "concurrency: 0"))
    done = run(inputs)
    assert done.returncode == 2
    assert "config.yml:7:18: pipelines[0].ops[0].concurrency is 0; expected" in folders.stderr_of(done)


def test_an_op_that_cannot_be_built_ends_the_run(inputs):
    (inputs / "config.yml").write_text(CONFIG.replace("Files", "Missing"))
    done = run(inputs)
    assert done.returncode == 3
    assert "Missing" in folders.stderr_of(done)
