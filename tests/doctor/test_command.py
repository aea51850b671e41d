"""The command: its exit code, its output at 80 columns, JSON, and the report that is pasted into an issue."""

import getpass
import json
import os
import platform
import pty
import re
import subprocess
import sys

import markdown
import pytest

from ascend_parallel.cli import doctor as command
from ascend_parallel.doctor.finding import Layer, failure, ok, warning
from ascend_parallel.doctor.report import hide_private, to_markdown

from . import machines

WORDS = [sys.executable, "-m", "ascend_parallel", "doctor"]
LAYERS = [
    Layer(
        "Kernel and limits",
        [ok("system", "Linux 5.10"), warning("open files", "256 per process", "run ulimit -n 4096")],
    ),
    Layer(
        "Work",
        [
            failure(
                "ascend:0, mslite",
                "a | b in /home/someone/secret/model.mindir: `code` *star* <b>tag __init__",
                "do [this](x)",
                log=['  File "/home/someone/secret/x.py", line 3', "```", "end"],
            )
        ],
    ),
]


def run(*words, **options):
    return subprocess.run([*WORDS, *words], capture_output=True, text=True, timeout=60, **options)


def test_the_exit_code_is_0_only_if_the_devices_work(tmp_path):
    done = run("--devices", "cpu:0", "--json", "--report", str(tmp_path / "r.md"))
    assert done.returncode == 0, done.stdout
    found = json.loads(done.stdout)
    assert found["works"] is True and found["devices"] == ["cpu:0"]
    titles = [layer["title"] for layer in found["layers"]]
    assert titles[0] == "Kernel and limits" and titles[-1] == "Verdict"
    assert {"Work", "Engines", "Conversion and transport"} < set(titles)
    [step] = [f for layer in found["layers"] if layer["title"] == "Work" for f in layer["findings"]]
    assert step["data"]["step_ms"] > 0 and step["state"] == "ok"
    assert (tmp_path / "r.md").read_text().startswith("# ascend-parallel doctor\n\nDevices: cpu:0\n")
    assert done.stderr == ""


def test_devices_that_are_not_here_and_the_report_of_it(tmp_path):
    environ = {**os.environ, "PATH": "/usr/bin:/bin"}
    done = run("--devices", "ascend:0,1", "--report", str(tmp_path / "r.md"), env=environ)
    assert done.returncode == 1
    assert re.search(r"^failure verdict +ascend:0, ascend:1 do not work", done.stdout, re.MULTILINE), done.stdout
    assert "-> begin with driver:" in done.stdout
    text = (tmp_path / "r.md").read_text()
    assert "**FAILURE**" in text
    private = [os.path.expanduser("~") + "/", sys.prefix, str(tmp_path)]
    assert not [word for word in private if word in text], text
    assert not re.search(rf"\b{re.escape(platform.node())}\b", text)


def test_a_card_that_is_not_found_is_no_success_of_the_cpu(tmp_path):
    machines.tool(tmp_path / "bin", "nvidia-smi", "echo NVIDIA-SMI has failed because it could not communicate; exit 9")
    done = run(env={**os.environ, "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"})
    assert done.returncode == 1
    text = " ".join(done.stdout.split())
    assert "cpu:0 works with onnxruntime (cpu), but nvidia-smi is here, and no card was found" in text, text
    assert "-> begin with nvidia-smi: install NVIDIA's driver" in text
    assert text.endswith("if there is no card, name the devices: --devices cpu:0")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--devices", "tpu:0"], "unknown device type 'tpu'"),
        (["--worker-python", "/nowhere/python"], "is not an executable"),
        (["--timeout-s", "0"], "--timeout-s is 0.0; expected seconds"),
        (["--report", "r.txt"], "--report r.txt does not end in .md"),
        (["--report", "no/r.md"], "there is no folder no"),
    ],
)
def test_usage_errors_are_one_line_before_anything_is_examined(tmp_path, words, message):
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    [line] = done.stderr.splitlines()
    assert message in line
    assert not list(tmp_path.iterdir())


def on_a_terminal(words, columns):
    """Return what a program prints on a terminal of so many columns, without its colours and movements."""
    master, slave = pty.openpty()
    environ = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm"}
    with subprocess.Popen(words, stdout=slave, stderr=slave, env=environ):
        os.close(slave)
        chunks = []
        while True:
            try:
                chunk = os.read(master, 65536)
            except OSError:  # the other side is closed
                break
            if not chunk:
                break
            chunks.append(chunk)
    os.close(master)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", b"".join(chunks).decode())


def test_it_fits_a_terminal_of_80_columns():
    text = on_a_terminal([*WORDS, "--devices", "ascend:0"], 80)
    lines = [line.rpartition("\r")[2] if not line.endswith("\r") else line.rstrip("\r") for line in text.split("\n")]
    shown = [line.rpartition("\r")[2] for line in lines]
    assert any(line.startswith("failure /dev/davinci0") for line in shown), text
    assert max(len(line.rstrip()) for line in shown) <= 80


def test_a_word_longer_than_its_column_is_folded(capsys):
    console = command.Console(markup=False, width=80)
    command._print_layer(console, Layer("X", [failure("/usr/local/Ascend/driver/lib64", "y" * 100, "z" * 100)]))
    assert all(len(line.rstrip()) <= 80 for line in capsys.readouterr().out.splitlines())


# ---- the report


def test_the_report_renders():
    page = markdown.markdown(to_markdown(LAYERS, "ascend:0"), extensions=["tables", "fenced_code"])
    assert page.count("<table>") == 2
    rows = re.findall(r"<tr>\s*(.*?)</tr>", page, re.DOTALL)
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
    assert all(len(row) == 4 for row in cells)
    assert cells[1] == ["ok", "system", "Linux 5.10", ""]
    assert cells[2][0] == "<strong>warning</strong>"
    assert cells[4][2] == "a | b in .../model.mindir: `code` *star* &lt;b&gt;tag __init__"
    assert cells[4][3] == "do [this](x)"
    [block] = re.findall(r"<pre><code[^>]*>(.*?)</code></pre>", page, re.DOTALL)
    assert block.splitlines()[-2:] == ["'''", "end"]
    assert "someone" not in page and "secret" not in page


def test_private_words_are_hidden(monkeypatch):
    monkeypatch.setattr(platform, "node", lambda: "build7.lab.example.org")
    monkeypatch.setattr(getpass, "getuser", lambda: "mvoss")
    text = "on build7.lab.example.org and build7, mvoss ran /data/mvoss/a.py; C at /dev/davinci0"
    assert hide_private(text) == "on HOST and HOST, USER ran .../a.py; C at /dev/davinci0"
    assert hide_private("/home/mvoss/anaconda3/bin/python -m pip") == ".../python -m pip"
    assert hide_private("/home/mvoss") == ".../USER"
    assert hide_private("24.1.rc3, 310P3/44280, x86_64 and 3 / 4") == "24.1.rc3, 310P3/44280, x86_64 and 3 / 4"
