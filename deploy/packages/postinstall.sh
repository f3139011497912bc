#!/bin/sh
# Both formats: dpkg calls it with "configure", rpm with the number of versions that are then installed. DPKG_ROOT: dpkg's --root.
set -e
case ${1:-} in configure | [1-9]*) ;; *) exit 0 ;; esac
root=${DPKG_ROOT:-}
systemd-sysusers ${root:+--root="$root"} @NAME@.conf
own() { # user, folder
  mkdir -p "$root$2"
  chown "$(sed -n "s/^$1:[^:]*:\([0-9]*\):\([0-9]*\):.*/\1:\2/p" "$root/etc/passwd")" "$root$2"
  chmod 0700 "$root$2"
}
@FOLDERS@
# byte code is written here, for the service may not write where its code is
if [ -z "$root" ]; then @PYTHON@ -m compileall -q --invalidation-mode unchecked-hash /usr/lib/@NAME@ >/dev/null 2>&1 || true; fi
if [ -z "$root" ] && [ -d /run/systemd/system ]; then
  systemctl daemon-reload
  systemctl try-restart @UNITS@
fi
