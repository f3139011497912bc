#!/bin/sh
# Both formats: dpkg calls it with "remove", "purge" and others, rpm with 0 for the last version. What @NAME@ stored stays in
# any case: keys, data base, backups. Remove the folders by hand.
set -e
root=${DPKG_ROOT:-}
case ${1:-} in
purge | 0) for link in @LINKS@; do rm -f "$root/etc/systemd/system/$link"; done ;;
esac
if [ -z "$root" ] && [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
