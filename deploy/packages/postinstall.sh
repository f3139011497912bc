#!/bin/sh
# Both formats: dpkg calls it with "configure", rpm with the number of versions that are then installed. DPKG_ROOT: dpkg's --root.
set -e
case ${1:-} in configure | [1-9]*) ;; *) exit 0 ;; esac
root=${DPKG_ROOT:-}
systemd-sysusers ${root:+--root="$root"} @NAME@.conf
is_live() { [ -z "$root" ] && [ -d /run/systemd/system ]; }
ids_of() { sed -n "s/^$1:[^:]*:\([0-9]*\):\([0-9]*\):.*/\1:\2/p" "$root/etc/passwd"; }
own() { # user, folder
  mkdir -p "$root$2"
  chown "$(ids_of "$1")" "$root$2"
  chmod 0700 "$root$2"
}
paused=''
hand_over() { # user before, user now, folder: what was stored while both ran as one user. Units that write there must not run meanwhile.
  before=$(ids_of "$1")
  [ -n "$before" ] && [ -d "$root$3" ] || return 0
  [ -n "$(find "$root$3" -user "${before%:*}" -print -quit)" ] || return 0
  for unit in @UNITS@; do
    if is_live && systemctl is-active --quiet "$unit"; then
      systemctl stop "$unit"
      paused="$paused $unit"
    fi
  done
  # only files of that user: of a link to a file of somebody else nothing is handed over
  chown -R -h --from="${before%:*}" "$(ids_of "$2")" "$root$3"
}
@FOLDERS@
# byte code is written here, for the service may not write where its code is
if [ -z "$root" ]; then @PYTHON@ -m compileall -q --invalidation-mode unchecked-hash /usr/lib/@NAME@ >/dev/null 2>&1 || true; fi
if is_live; then
  systemctl daemon-reload
  systemctl try-restart @UNITS@
  for unit in $paused; do systemctl start "$unit"; done
fi
