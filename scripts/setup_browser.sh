#!/usr/bin/env bash
# Install Debian's Chromium and its driver for the browser tests, where they are missing and apt-get may be used.
# Whatever happens, it ends well and in bounded time: without a browser those tests are skipped and say so. An attempt that
# failed is not repeated for a day; the note of it lies in the environment, whose folder is the argument.
set -uo pipefail
failed=${1:-.venv}/.no-browser

found() { for name in "$@"; do command -v "$name" >/dev/null && return; done; return 1; }
give_up() { echo "note: no browser for the tests of report and dashboard ($1); they will be skipped." >&2; exit 0; }

found chromium chromium-browser google-chrome && found chromedriver && exit 0
[ -z "$(find "$failed" -mtime -1 2>/dev/null)" ] || give_up "installing it failed within the last day; to try again: rm $failed"
found apt-get || give_up "apt-get is not there; install Chromium and chromedriver by hand"
root=()
if [ "$(id -u)" != 0 ]; then
  sudo -n true 2>/dev/null || give_up "installing needs root; type: apt-get install chromium chromium-driver"
  root=(sudo -n)
fi

# Fetching is cut off when it takes too long; unpacking is not, since that would leave a package half installed.
apt() {
  local seconds=$1
  shift
  timeout "$seconds" "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o Acquire::Retries=1 \
    -o Acquire::http::Timeout=15 -o DPkg::Lock::Timeout=30 "$@" >/dev/null 2>&1 </dev/null
}
packages=(chromium chromium-driver)
echo "installing ${packages[*]} for the browser tests"
touch "$failed" 2>/dev/null
apt 240 install --no-install-recommends --download-only "${packages[@]}" ||
  { apt 60 update && apt 240 install --no-install-recommends --download-only "${packages[@]}"; } ||
  give_up "apt-get could not fetch ${packages[*]}"
apt 600 install --no-install-recommends --no-download "${packages[@]}" || give_up "apt-get could not install ${packages[*]}"
rm -f "$failed"
