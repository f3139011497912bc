#!/bin/sh
# Both formats: dpkg calls it with "remove" or "upgrade", rpm with 0 for the last version.
set -e
root=${DPKG_ROOT:-}
case ${1:-} in
remove | 0) if [ -z "$root" ] && [ -d /run/systemd/system ]; then systemctl stop @STOPPED@; fi ;;
esac
find "$root/usr/lib/@NAME@" -name __pycache__ -prune -exec rm -rf {} +
