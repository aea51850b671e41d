"""The house's rules: imports point down, names are complete, the worker runs on Python 3.7, nothing is too long."""

import ast
import os
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

import ascend_parallel

HOUSE = Path(ascend_parallel.__file__).parent
FILES = sorted(HOUSE.rglob("*.py"))
WORKER_FILES = sorted((HOUSE / "worker").rglob("*.py"))
MAX_FUNCTION_LINES = 40
MAX_FILE_LINES = 300

#: Floors from below: a file may import from its own floor and those below it.
FLOORS = [
    ("worker",),
    ("errors", "checks", "files", "waiting", "devices", "model_manifest", "model_precision"),
    ("batching",),
    ("backends",),
    ("runner",),
    ("cluster",),
    ("cli", "__main__"),
]
#: Whatever else there is (mapping, conversion, serving, ...) is a feature: above the runners, below the command line.
FEATURES = 5.5


def name_of(path):
    return str(path.relative_to(HOUSE))


def module_of(path):
    """Return a file's module in the package, dotted; "" for the package itself."""
    parts = list(path.relative_to(HOUSE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def floor_of(module):
    room = module.split(".")[0]
    for floor, rooms in enumerate(FLOORS):
        if room in rooms:
            return floor
    return FEATURES


def imports_of(path, *, at_import_only=False):
    """Return the absolute names of the modules that a file imports; imports for type checkers do not count."""
    tree = ast.parse(path.read_text())
    found = []
    package = module_of(path).split(".") if path.name == "__init__.py" else module_of(path).split(".")[:-1]
    for node in _walk(tree, at_import_only):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package[: len(package) - node.level + 1]
                base = ".".join(part for part in ["ascend_parallel", *above, base] if part)
            found += [f"{base}.{alias.name}" for alias in node.names]
    return found


def _walk(node, at_import_only):
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if at_import_only and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        yield child
        yield from _walk(child, at_import_only)


# ---- imports


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.parent != HOUSE or path.name != "__init__.py"], ids=name_of
)
def test_imports_only_point_down(path):
    floor = floor_of(module_of(path))
    for name in imports_of(path):
        if name.startswith("ascend_parallel."):
            other = name.removeprefix("ascend_parallel.")
            assert floor_of(other) <= floor, f"{name_of(path)} imports {name}, which is above it"


#: What of the worker the master imports: all but the loop that runs there.
DOORS = ("protocol", "memory", "engines", "building", "results", "ops", "__main__")


def test_the_master_knows_only_the_worker_s_doors():
    """Wire format, memory, engines' descriptions, and the program to start: not the loop that runs there."""
    for path in FILES:
        if HOUSE / "worker" in path.parents or floor_of(module_of(path)) >= FEATURES:
            continue
        for name in imports_of(path):
            if name.startswith("ascend_parallel.worker."):
                assert name.split(".")[2] in DOORS, f"{name_of(path)}: {name}"


@pytest.mark.parametrize("path", WORKER_FILES, ids=name_of)
def test_the_worker_imports_nothing_from_outside_its_folder(path):
    runtimes = {
        "convert.py": {"mindspore_lite"},
        "engines/onnxruntime.py": {"onnxruntime"},
        "engines/mslite.py": {"mindspore_lite"},
        "engines/acl_process.py": {"acl"},
        "engines/ais_bench_session.py": {"ais_bench"},
    }
    own = runtimes.get(str(path.relative_to(HOUSE / "worker")), set())
    for name in imports_of(path):
        top = name.split(".")[0]
        assert (
            name.startswith("ascend_parallel.worker") or top in sys.stdlib_module_names or top == "numpy" or top in own
        ), name
    for name in imports_of(path, at_import_only=True):
        assert name.split(".")[0] not in ("onnxruntime", "mindspore_lite", "acl", "ais_bench"), (
            "a runtime is imported when a model is built"
        )


def test_importing_is_cheap():
    """No runtime, no command line, and for the bare package not even numpy."""
    code = (
        "import sys, ascend_parallel\n"
        "early = set(sys.modules)\n"
        "from ascend_parallel import *\n"
        "from ascend_parallel import ParallelPredictUtils\n"
        "heavy = {'onnxruntime', 'mindspore_lite', 'typer', 'rich', 'onnx', 'torch', 'yaml', 'ray', 'pydantic'}\n"
        "print(sorted(heavy & set(sys.modules)), 'numpy' in early)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[] False\n", done.stdout + done.stderr


def test_the_command_line_imports_what_a_command_needs_when_it_runs():
    """``--help`` and errors come at once, and ``map`` starts no later than it must."""
    code = (
        "import sys, ascend_parallel.cli\n"
        "assert 'typer' not in sys.modules\n"
        "import ascend_parallel.cli.app\n"
        "assert 'ascend_parallel.cli.map' not in sys.modules\n"
        "import ascend_parallel.cli.map\n"
        "heavy = {'numpy', 'onnx', 'onnxruntime', 'rich', 'yaml', 'matplotlib', 'pydantic', 'uvicorn', 'grpc'}\n"
        "heavy |= {'ascend_parallel.runner.runner'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stdout + done.stderr


def test_the_list_of_commands_says_what_their_docstrings_say():
    from typer.main import get_group

    from ascend_parallel.cli.app import COMMANDS, app

    for name, command in get_group(app).commands.items():
        assert command.name == name
        assert COMMANDS[name].summary == command.help.split("\n\n")[0], name


# ---- names


def test_all_is_complete_and_each_name_is_there():
    assert sorted(ascend_parallel.__all__) == sorted([*ascend_parallel._HOMES, "__version__"])
    for name in ascend_parallel.__all__:
        assert getattr(ascend_parallel, name) is not None
    assert dir(ascend_parallel) == sorted(ascend_parallel.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'ParalelPredictUtils'"):
        ascend_parallel.ParalelPredictUtils  # noqa: B018


def test_all_errors_are_public_and_have_one_root():
    from ascend_parallel import errors

    classes = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert classes == set(errors.__all__)
    assert classes <= set(ascend_parallel.__all__)
    for name in classes:
        error = getattr(errors, name)
        assert issubclass(error, errors.AscendParallelError)
        assert isinstance(error.exit_code_of_cli, int) and error.exit_code_of_cli > 0
        assert f" {name} " in errors.__doc__ or f"{name}  " in errors.__doc__, "it is in the tree at the top"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_module_s_all_names_what_is_there(path):
    names = [
        element.value
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets)
        for element in node.value.elts
    ]
    if names and path.parent != HOUSE:
        module = __import__(f"ascend_parallel.{module_of(path)}", fromlist=["x"])
        assert all(hasattr(module, name) for name in names)
    assert len(names) == len(set(names))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_everything_says_what_it_is(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree) or not tree.body, "a module's docstring"
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{name_of(path)}: {node.name}"


def test_no_user_s_mistake_is_caught_by_assert_alone():
    """What -O takes away must not be the only check of what a user gives."""
    for name in (
        "checks.py",
        "runner/options.py",
        "runner/outside_engine.py",
        "runner/tutorial.py",
        "cluster/settings.py",
        "batching/batch.py",
        "batching/model.py",
        "devices/spec.py",
        "ray_serve/arguments.py",
        "ray_serve/builder.py",
        "ray_serve/devices.py",
        "ray_serve/settings.py",
        "serving/config_checks.py",
        "serving/config_file.py",
        "serving/credentials.py",
        "serving/grpc/infer_request.py",
        "serving/image_checks.py",
        "serving/images/generation_request.py",
        "serving/model_checks.py",
        "serving/grpc/wire.py",
        "serving/yaml_file.py",
        "model_manifest.py",
    ):
        assert not [node for node in ast.walk(ast.parse((HOUSE / name).read_text())) if isinstance(node, ast.Assert)]


# ---- Python 3.7


def _old_pythons():
    """Return interpreters of Python 3.7: the one with MindSpore Lite, else pyenv's."""
    if os.environ.get("MSLITE_PYTHON"):
        return [os.environ["MSLITE_PYTHON"]]
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    return sorted(str(path) for path in root.glob("versions/3.7.*/bin/python"))


def test_the_worker_compiles_under_python_3_7():
    pythons = _old_pythons()
    if not pythons:
        pytest.skip("there is no Python 3.7: neither MSLITE_PYTHON nor pyenv has one")
    code = (
        "import sys\n"
        "assert sys.version_info[:2] == (3, 7), sys.version\n"
        "for path in sys.argv[1:]: compile(open(path, encoding='utf-8').read(), path, 'exec')\n"
    )
    files = [
        *map(str, WORKER_FILES),
        str(HOUSE / "__init__.py"),
    ]  # the latter for `from ascend_parallel import MSLitePredict`
    done = subprocess.run([pythons[0], "-W", "error", "-c", code, *files], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", WORKER_FILES, ids=name_of)
def test_the_worker_s_syntax_is_that_of_python_3_7(path):
    """For machines without one; annotations are strings there, so the newer words in them do no harm."""
    assert "from __future__ import annotations" in path.read_text() or not imports_of(path)
    ast.parse(path.read_text(), feature_version=(3, 7))


# ---- size


def code_lines(path):
    """Return the numbers of the lines that hold code: no blanks, comments or docstrings."""
    with open(path, "rb") as file:
        tokens = list(tokenize.tokenize(file.readline))
    idle = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING}
    lines = {
        line
        for token in tokens
        if token.type not in idle and token.type != tokenize.ENDMARKER
        for line in range(token.start[0], token.end[0] + 1)
    }
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node
        ):
            text = node.body[0]
            lines -= set(range(text.lineno, text.end_lineno + 1))
    return lines


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_grows_too_long(path):
    lines = code_lines(path)
    assert len(lines) <= MAX_FILE_LINES, f"{len(lines)} lines of code"
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            count = sum(1 for line in lines if node.lineno <= line <= node.end_lineno)
            assert count <= MAX_FUNCTION_LINES, f"{node.name} has {count} lines of code"


def test_most_functions_are_short():
    counts = []
    for path in FILES:
        lines = code_lines(path)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                counts.append(sum(1 for line in lines if node.lineno <= line <= node.end_lineno))
    assert sorted(counts)[int(len(counts) * 0.9)] <= 17, "nine of ten"
