#!/bin/sh
# Install Chromium and its driver, for the tests of the server's page, where they are missing and apt-get may do it.
set -eu
if command -v chromedriver >/dev/null && { command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null; then
    exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "no Chromium with chromedriver found, and only root can install them by apt-get: the tests of the server's page will not run" >&2
    exit 0
fi
apt-get update --quiet --quiet
DEBIAN_FRONTEND=noninteractive apt-get install --quiet --quiet --yes --no-install-recommends chromium chromium-driver
