# shellcheck shell=bash
# Sourced by the commands beside this folder, after they set `root` (the checkout): installs what they need.
#
#   prepare PROFILE   PROFILE is "demo" or "test"; returns when everything is there, or ends the script
#   step TEXT CMD...  run CMD with its output kept aside, show TEXT and the seconds it took
#   die TEXT...       say why, and end
#
# Nothing touches the network when a stamp in .venv says that this has been done for this pyproject.toml, this
# list of packages and this place.

root=${root:?the checkout}

# called by sudo, by CI or with an empty environment: the same everywhere
export PATH="${PATH:+$PATH:}/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
export LANG=C.UTF-8 LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive
export HOME="${HOME:-/root}"
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV

# command:package; what is found is not installed again
DEMO_PACKAGES=(nft:nftables ip:iproute2)
TEST_PACKAGES=(ethtool:ethtool ping:iputils-ping modprobe:kmod ps:procps conntrack:conntrack tcpdump:tcpdump groff:groff-base systemd-analyze:systemd clang:clang llvm-strip:llvm mmdebstrap:mmdebstrap)

die() {
  printf '\n%s: %s\n' "${0##*/}" "$1" >&2
  shift
  [ $# -eq 0 ] || printf '  %s\n' "$@" >&2
  exit 1
}

# seconds since $1 (an $EPOCHREALTIME), with one decimal
since() {
  local tenths=$(((${EPOCHREALTIME/[.,]/} - ${1/[.,]/}) / 100000))
  printf '%d.%d s' $((tenths / 10)) $((tenths % 10))
}

step() {
  local text=$1 began=$EPOCHREALTIME status=0 ticker=
  shift
  if [ -t 1 ]; then # a person is watching: show that time passes
    while :; do printf '\r· %s … %s ' "$text" "$(since "$began")"; sleep 0.5; done &
    ticker=$!
  fi
  "$@" </dev/null >"$log" 2>&1 || status=$?
  if [ -n "$ticker" ]; then
    kill "$ticker"; wait "$ticker" 2>/dev/null || true
    printf '\r\e[K'
  fi
  printf '· %s: %s%s\n' "$text" "$(since "$began")" "$([ $status -eq 0 ] || echo ', failed')"
  return $status
}

# the last words of the step that failed
why() { sed 's/^/    /' "$log" | tail -n 15 >&2; }

require_root() {
  [ "$(id -u)" -eq 0 ] || die "needs root: it makes network namespaces, in which everything then happens." \
    "Please run: sudo ${0}"
}

# Debian packages ------------------------------------------------------------------------------------------

install_packages() { # COMMAND:PACKAGE...
  local pair missing=()
  for pair; do command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}"); done
  [ -e /etc/protocols ] || missing+=(netbase) # nft and ip know protocols by name from there
  # what the fast path's program is compiled with, for those who have a compiler
  [ -e /usr/include/bpf/bpf_helpers.h ] || ! printf '%s\n' "$@" | grep -q ^clang: || missing+=(libbpf-dev libbpf1)
  python_with_venv >/dev/null || missing+=(python3 python3-venv)
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null || die "missing: ${missing[*]}, and there is no apt-get here." \
    "Please install them with this system's own package manager, and start again."
  # an update may fail for one foreign repository and still serve what we want: the install decides
  step "reading the package lists" apt-get -qq update || why
  # a machine just started may be installing its own updates: wait for those
  step "installing ${missing[*]}" apt-get -qq -o DPkg::Lock::Timeout=300 -o Dpkg::Options::=--force-confold \
    install --yes --no-install-recommends "${missing[@]}" || {
    why
    die "apt-get could not install: ${missing[*]}" "Is the network there? Try: apt-get install ${missing[*]}"
  }
}

# a Python of at least 3.11 that can make a virtual environment; the system's own first
python_with_venv() {
  local python
  for python in /usr/bin/python3 /usr/bin/python3.{14,13,12,11} python3 python3.{14,13,12,11}; do
    python=$(command -v "$python") || continue
    "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
    echo "$python"
    return 0
  done
  return 1
}

# PACKAGES and those of their dependencies that this machine lacks, unpacked into $lab/SET and not installed
# shellcheck disable=SC2317 # called through step
unpack() { # SET PACKAGE...
  local target="$lab/$1.new" set=$1 names deb link
  shift
  rm -rf "$target"
  mkdir -p "$target/debs" "$target"/usr/{bin,sbin,lib,lib64} || return 1
  # a merged /usr, as the system's: or a package's /lib would hide the real one
  for link in bin sbin lib lib64; do ln -s "usr/$link" "$target/$link"; done
  names=$(apt-get -s -o Debug::NoLocking=1 install --no-install-recommends "$@" | awk '/^Inst/ { print $2 }')
  # shellcheck disable=SC2086 # names are words
  (cd "$target/debs" && apt-get -qq -o APT::Sandbox::User=root download "$@" $names) || return 1
  for deb in "$target"/debs/*.deb; do
    dpkg-deb --fsys-tarfile "$deb" | tar -C "$target" -x --keep-directory-symlink || return 1
  done
  rm -r "$target/debs"
  rm -rf "${lab:?}/$set"
  mv "$target" "$lab/$set" # whole or not at all
}

# the virtual environment ----------------------------------------------------------------------------------

usable_venv() {
  # its scripts name the path it was made at: one that was moved or copied is made anew
  grep -qsF "$root/.venv/bin/" "$root/.venv/bin/pip" &&
    "$root/.venv/bin/python" -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

install_project() { # REQUIREMENT: "." or ".[test]"
  local python
  if ! usable_venv; then
    python=$(python_with_venv) || die "no Python of 3.11 or newer found." \
      "Debian 12 and Ubuntu 24.04 have one: apt-get install python3 python3-venv"
    rm -rf "$root/.venv"
    step "making a virtual environment in .venv ($("$python" -V))" "$python" -m venv "$root/.venv" || {
      why
      die "$python -m venv failed." "Try: apt-get install python3-venv"
    }
  fi
  step "installing vpnmasq and its Python packages into .venv" \
    "$root/.venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --editable "$root${1#.}" || {
    why
    die "pip could not install the Python packages." "Is the network there? Then start again: ${0}"
  }
}

# the checkout may belong to the person who typed sudo: so shall what we made in it
give_back() {
  [ -z "${SUDO_UID-}" ] || find "$root" -xdev -path "$root/.git" -prune -o -user root \
    -exec chown -h "$SUDO_UID:${SUDO_GID:-$SUDO_UID}" {} + 2>/dev/null || true
}

prepare() {
  local profile=$1 packages=("${DEMO_PACKAGES[@]}") requirement=. key stamp other began=$EPOCHREALTIME
  require_root
  log=$(mktemp)
  trap 'rm -f "$log"' EXIT
  [ "$profile" = demo ] || { packages+=("${TEST_PACKAGES[@]}"); requirement='.[test]'; }
  install_packages "${packages[@]}"
  key=$(cat "$root/pyproject.toml" "$root"/relay/fastpath/bpf/* - <<<"$root" | sha256sum)
  for other in test "$profile"; do # what the tests need includes what the demo needs
    stamp="$root/.venv/.ready-$other"
    [ "$(cat "$stamp" 2>/dev/null)" != "$key" ] || [ ! -x "$root/.venv/bin/vpnmasq" ] || { rm -f "$log"; return 0; }
  done
  install_project "$requirement"
  "$root/.venv/bin/python" -m compileall -q "$root/relay" "$root/protocols" || true
  echo "$key" >"$stamp"
  give_back
  echo "· ready in $(since "$began"); from now on this starts at once"
  rm -f "$log"
}
