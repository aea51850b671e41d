#!/bin/sh
# Install the package under each of the given Pythons that is there, and run a model over two devices with it.
# usage: smoke.sh VENV_FOLDER VERSION...
set -eu
venvs=$1
shift
here=$(dirname "$0")
for version in "$@"; do
    python=$("$here/find_python.sh" "$version")
    if [ -z "$python" ]; then
        echo "smoke: Python $version is not here"
        continue
    fi
    "$python" -m venv "$venvs/$version"
    "$venvs/$version/bin/pip" install --quiet '.[cpu]'
    # From another folder, so that what was installed is what runs.
    (cd / && "$venvs/$version/bin/python" -W error "$OLDPWD/$here/smoke.py")
    "$venvs/$version/bin/ascend-parallel" --version
done
