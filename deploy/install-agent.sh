#!/bin/sh
# Installs edgefleet's agent on this machine, enrols it and starts it. A server serves this as /agent/install.sh, and writes in front of
# it what it installs: url, ca, wheel, wheel_sha256, deb, deb_sha256, unit. `edgectl device enroll` prints the line that runs it.
#
# - As root where systemd runs: a service, from the Debian package where this system has what it depends on, else from an environment
#   in /opt/edgefleet. As another user, in ~/.local/share/edgefleet-agent, or without systemd: the agent runs in the background.
# - The claim token is read from standard input, or asked for; it stands in no list of processes.
# - On a machine that has the agent already it brings the program up to date; an enrolled device stays enrolled.
# - EDGEFLEET_EXTRAS: the runtime, as extras of the package, default onnx,image. EDGEFLEET_NO_DEB=1: no Debian package.
# shellcheck disable=SC2154  # what the server writes in front
set -eu

say() { printf '%s\n' "$*" >&2; }

fail() { # what, why, next step
  printf 'error: %s\nwhy:   %s\nnext:  %s\n' "$@" >&2
  exit 1
}

choose_places() {
  extras=${EDGEFLEET_EXTRAS-onnx,image}
  if [ "$(id -u)" = 0 ]; then
    folder=/opt/edgefleet
    link=/usr/local/bin/edge-agent
    state=/var/lib/edgefleet-agent
  else
    folder=$HOME/.local/share/edgefleet-agent
    link=$HOME/.local/bin/edge-agent
    state=${EDGEFLEET_AGENT_STATE:-${XDG_STATE_HOME:-$HOME/.local/state}/edgefleet-agent}
  fi
  program=$folder/bin/edge-agent
}

is_service() { [ "$(id -u)" = 0 ] && [ -d /run/systemd/system ]; }

as_agent() { # command: as the account that the agent runs as
  if [ "$(id -u)" = 0 ]; then runuser -u edgefleet -- "$@"; else "$@"; fi
}

read_token() {
  if [ -t 0 ]; then
    printf 'claim token (it is not shown): ' >&2
    trap 'stty echo' EXIT
    trap 'exit 130' INT TERM
    stty -echo
    IFS= read -r token || token=''
    stty echo
    trap - EXIT INT TERM
    say ''
  else
    IFS= read -r token || true
  fi
  case ${token:-} in
  efc1.*) ;;
  *) fail 'no claim token' 'a claim token begins with efc1.' 'make one (edgectl device enroll), and run this again' ;;
  esac
}

find_python() {
  for python in python3 python3.14 python3.13 python3.12 python3.11; do
    "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && return 0
  done
  fail 'Python 3.11 or newer with its module venv is not here' "python3 is $(python3 -V 2>&1 || echo missing)" \
    'install it (Debian: apt-get install -y python3-venv), and run this again'
}

fetch() { # file, sha256: from the server, into $tmp
  if command -v curl >/dev/null 2>&1; then
    curl -q -fsS --proto =https --cacert "$tmp/ca.pem" -o "$tmp/$1" "$url/agent/$1"
  else
    python3 -c 'import ssl, sys, urllib.request as web
address, file, ca = sys.argv[1:]
with web.urlopen(address, context=ssl.create_default_context(cafile=ca)) as answer, open(file, "wb") as out:
    out.write(answer.read())' "$url/agent/$1" "$tmp/$1" "$tmp/ca.pem"
  fi
  printf '%s  %s\n' "$2" "$tmp/$1" | sha256sum -c - >/dev/null 2>&1 ||
    fail "$1 is not the file that the server named" 'its sha256 is another one' 'run the line again; the file may have been replaced meanwhile'
}

fits_deb() { # fetches it to see; as a condition it does not stop at an error by itself, `fetch` does
  is_service && [ -n "$deb" ] && [ -z "${EDGEFLEET_NO_DEB:-}" ] && [ ! -e "$folder" ] || return 1
  command -v apt-get >/dev/null 2>&1 || return 1
  fetch "$deb" "$deb_sha256"
  plan_deb && return 0
  apt-get -qq update >/dev/null 2>&1 || true  # a new image has no lists yet
  plan_deb && return 0
  say "edgefleet: this system lacks what $deb depends on; installing the wheel"
  return 1
}

plan_deb() { apt-get -s -qq --no-remove --allow-downgrades install "$tmp/$deb" >/dev/null 2>&1; }

install_deb() {
  say "edgefleet: installing $deb"
  # apt-get has nothing quieter: dpkg would write some two hundred lines
  if ! DEBIAN_FRONTEND=noninteractive apt-get -y -qq --no-remove --allow-downgrades install "$tmp/$deb" >"$tmp/apt.log" 2>&1; then
    tail -n 30 "$tmp/apt.log" >&2
    fail "apt-get did not install $deb" 'its last lines are above' 'mend that and run this again, or set EDGEFLEET_NO_DEB=1 to install the wheel'
  fi
  program=/usr/bin/edge-agent
  removal='apt-get purge -y edgefleet-agent'
}

install_wheel() {
  if [ -e "$folder/bin/edgectl" ]; then
    fail "$folder holds edgectl or the server" 'the agent came with it' "$program enroll TOKEN --run"
  fi
  find_python
  fetch "$wheel" "$wheel_sha256"
  say "edgefleet: installing $wheel into $folder"
  if [ -x "$folder/bin/python" ]; then is_new=''; else is_new=yes && "$python" -m venv "$folder"; fi
  "$folder/bin/python" -m pip install -q --disable-pip-version-check "$tmp/$wheel${extras:+[$extras]}" >&2
  # the same version may have other contents
  [ -n "$is_new" ] || "$folder/bin/python" -m pip install -q --disable-pip-version-check --no-deps --force-reinstall "$tmp/$wheel" >&2
  removal="rm -r $folder $state"
  if [ ! -e "$link" ] || [ "$(readlink -- "$link")" = "$program" ]; then
    mkdir -p "$(dirname -- "$link")"
    ln -sf "$program" "$link"
    removal="$removal; rm $link"
  else
    say "note: $link is another one, and stays"
  fi
  if [ "$(id -u)" = 0 ]; then add_service; fi
}

add_service() {
  id edgefleet >/dev/null 2>&1 || useradd --system --user-group --home-dir "$state" --shell /usr/sbin/nologin edgefleet
  install -d -m 0700 -o edgefleet -g edgefleet "$state"
  removal="$removal; userdel edgefleet"
  is_service || return 0
  printf '%s\n' "$unit" >/etc/systemd/system/edge-agent.service
  systemctl daemon-reload
  removal="systemctl disable --now edge-agent; rm /etc/systemd/system/edge-agent.service; $removal"
}

enrol() {
  is_service || set -- --run
  # its next step is what `report` says; an assignment, because a pipe would hide a failure
  said=$(printf '%s\n' "$token" | as_agent "$program" enroll - --state "$state" "$@")
  printf '%s\n' "$said" | sed '/^next: /d'
}

main() {
  umask 022
  choose_places
  if [ -e "$state/identity" ]; then is_enrolled=yes; else is_enrolled='' && read_token; fi
  tmp=$(mktemp -d)
  trap 'rm -rf "$tmp"' EXIT
  chmod 755 "$tmp"
  cd /
  printf '%s\n' "$ca" >"$tmp/ca.pem"
  if fits_deb; then install_deb; else install_wheel; fi
  [ -n "$is_enrolled" ] || enrol
  if is_service; then systemctl enable --now edge-agent; fi
  report
}

report() {
  say ''
  say "program  $program, $("$program" --version)"
  say "state    $state: the device's key, certificate and models"
  stopping="$program stop --state $state"
  if is_service; then
    say 'service  edge-agent.service; systemctl status edge-agent'
    stopping='systemctl stop edge-agent'
  elif [ -n "$is_enrolled" ]; then
    say "run      an agent that runs takes the new program by itself; $program run --background --state $state"
  else
    say 'run      in the background until this machine stops; as root, where systemd runs, it is a service'
  fi
  say "look     $program status --state $state"
  say "stop     $stopping"
  say "remove   stop it, then $removal; the operator: edgectl device decommission ID"
}

main "$@"
