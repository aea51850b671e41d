#!/bin/sh
# Install the package under each of the given Pythons that is available, and run a model on two devices with it.
# usage: smoke.sh VENV_FOLDER VERSION...
set -eu
mkdir -p "$1"
venvs=$(cd "$1" && pwd)
scripts=$(cd "$(dirname "$0")" && pwd)
shift
for version in "$@"; do
    python=$("$scripts/find_python.sh" "$version")
    if [ -z "$python" ]; then
        echo "smoke: Python $version is not available"
        continue
    fi
    "$python" -m venv "$venvs/$version"
    "$venvs/$version/bin/pip" install --quiet "$scripts/..[cpu]"
    # From another folder, so that the installed package is the one that runs.
    (cd / && "$venvs/$version/bin/python" -W error "$scripts/smoke.py")
    "$venvs/$version/bin/ascend-parallel" --version
done
