#!/bin/bash
# Fetches Debian's own VPN software for the tests with real peers, and a kernel to run it in (user-mode-linux).
# Unpacked into .cache/lab, installed nowhere, no daemon started. Done once.
#
#   .cache/lab/ppp         pppd, pptpd, pptp-linux
#   .cache/lab/pppoe       a PPPoE server; pppd itself is the client
#   .cache/lab/libreswan   libreswan; it cannot be installed beside strongSwan, so each has a directory
#   .cache/lab/strongswan  strongSwan, with its tool for certificates
#   .cache/lab/bind        a name server
#   .cache/lab/uml         the kernel and its modules
#   .cache/lab/podman      a container engine
#   .cache/lab/base.tar    Debian, as the image of contrib/container knows it by its base's tag
#   .cache/lab/wheels      the Python packages of that image, for the pip in it knows nothing of this machine's ways out
#   .cache/lab/*.why       what is missing, in one line, for the tests that are skipped then
set -euo pipefail
root=$(dirname -- "$(dirname -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")")")
# shellcheck source=contrib/lib/setup.sh
. "$root/contrib/lib/setup.sh"
lab="$root/.cache/lab"
log=$(mktemp)
trap 'rm -f "$log"' EXIT

fetch() { # SET TEXT PACKAGE...
  local set=$1 text=$2
  shift 2
  [ ! -d "$lab/$set" ] || return 0
  # what the lists say may be older than what the mirror still has
  if ! step "fetching $text: $*" unpack "$set" "$@"; then
    step "reading the package lists" apt-get -qq update || true
    if ! step "fetching $text: $*" unpack "$set" "$@"; then
      why
      echo "the Debian packages $* could not be fetched" >"$lab/$set.why"
      return 1
    fi
  fi
  rm -f "$lab/$set.why"
}

# what the image's base has on a registry: Debian without what is for people to read
# shellcheck disable=SC2317 # called through step
bootstrap() {
  local omit=(--dpkgopt=path-exclude=/usr/share/{doc,locale,man}/'*' --dpkgopt=force-unsafe-io)
  unshare --mount mmdebstrap --mode=root --variant=minbase --format=tar "${omit[@]}" \
    --keyring="$lab/podman/usr/share/keyrings/debian-archive-keyring.gpg" \
    bookworm "$lab/base.new" http://deb.debian.org/debian && mv "$lab/base.new" "$lab/base.tar"
}

# what pyproject.toml names, for the Python of that base
# shellcheck disable=SC2317 # called through step
wheels() {
  local names
  rm -rf "$lab/wheels" "$lab/wheels.new"
  mapfile -t names < <("$root/.venv/bin/python" -c 'import sys, tomllib
found = tomllib.load(open(sys.argv[1], "rb"))
print(*found["project"]["dependencies"], *found["build-system"]["requires"], sep="\n")' "$root/pyproject.toml")
  "$root/.venv/bin/python" -m pip download --quiet --no-input --dest "$lab/wheels.new" \
    --python-version 3.11 --only-binary :all: "${names[@]}" || return 1
  cp "$root/pyproject.toml" "$lab/wheels.new/"
  mv "$lab/wheels.new" "$lab/wheels"
}

require_root
mkdir -p "$lab"
status=0
fetch ppp "VPN software for the tests" ppp pptpd pptp-linux || status=1
fetch pppoe "a PPPoE server for the tests" pppoe || status=1
fetch libreswan "libreswan for the tests" libreswan || status=1
fetch strongswan "strongSwan for the tests" strongswan-charon strongswan-swanctl strongswan-pki \
  libstrongswan-standard-plugins libcharon-extra-plugins || status=1
fetch bind "a name server for the tests" bind9 || status=1
fetch uml "a kernel for the tests" user-mode-linux || status=1
fetch podman "a container engine for the tests" podman runc conmon netavark aardvark-dns iptables catatonit \
  debian-archive-keyring || status=1
[ -e "$lab/base.tar" ] || step "making the base of the image" bootstrap || { why; status=1; }
cmp --silent "$root/pyproject.toml" "$lab/wheels/pyproject.toml" ||
  step "fetching the Python packages of the image" wheels || { why; status=1; }
give_back
exit $status
