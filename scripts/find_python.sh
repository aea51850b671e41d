#!/bin/sh
# Print the path of a Python of the given version (such as 3.7), from PATH or pyenv; nothing if there is none.
version=$1
for candidate in "python$version" \
    $(ls -d "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python 2>/dev/null); do
    if "$candidate" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$version')" 2>/dev/null; then
        command -v "$candidate"
        exit 0
    fi
done
exit 0
