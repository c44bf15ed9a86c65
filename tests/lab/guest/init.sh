#!/bin/bash
# Process 1 of a user-mode-linux guest. The kernel passes lab_dir=DIR, the guest's own directory on the real machine,
# in our environment.
#
# The root is the machine's own / through hostfs, read-only. Over /usr, /etc and /var goes an overlay: the unpacked
# packages, then the machine's own, a tmpfs on top. Then the network, then the agent.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C HOME=/run
# newer kernels take the path of a hostfs only from mount(2), newer mounts use it only when told
export LIBMOUNT_FORCE_MOUNT2=always
exec </dev/console >/dev/console 2>&1
# a fork and exec costs 35 ms here, so: few commands
mount -t proc proc /proc
. "${lab_dir:?}/env" # NAME ADDRESS ROUTER CACHE SOFTWARE MODULES
read -r _ _ version _ </proc/version
modules="$CACHE/uml/usr/lib/uml/modules/$version"
insmod "$modules/kernel/fs/overlayfs/overlay.ko"
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /mnt
mkdir -p /mnt/{cache,guest,host} /mnt/{upper,work}/{usr,etc,var} /mnt/modules/usr/lib/modules /dev/{pts,shm}
# a hostfs mount of its own: overlayfs refuses lower directories that lie inside each other
mount -t hostfs -o "$CACHE" none /mnt/cache
ln -s "/mnt/cache/uml/usr/lib/uml/modules/$version" "/mnt/modules/usr/lib/modules/$version"
for d in usr etc var; do
  low=
  for layer in $SOFTWARE modules; do
    [ "$layer" = modules ] && layer=/mnt/modules || layer=/mnt/cache/$layer
    [ ! -d "$layer/$d" ] || low=$low$layer/$d:
  done
  mount -t overlay overlay -o "lowerdir=$low/$d,upperdir=/mnt/upper/$d,workdir=/mnt/work/$d" "/$d"
done
# this folder may be in /tmp, which is about to be covered
mount -t hostfs -o "${0%/*}" none /mnt/guest
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mkdir -p /run/{lock,pptp,pluto}
: >/etc/resolv.conf # there are no names here: pppd would wait 10 s for the address of its own
mount -t hostfs -o "$lab_dir" none /mnt/host # the only part of the machine a guest can write
echo "$NAME" >/proc/sys/kernel/hostname
# shellcheck disable=SC2086 # names are words
modprobe -a $MODULES
# no more loading on demand: the kernel asks for dozens of modules that do not exist, 0.15 s each
echo >/proc/sys/kernel/modprobe
for f in all default; do
  echo 0 >/proc/sys/net/ipv4/conf/$f/rp_filter
  [ ! -e /proc/sys/net/ipv6 ] || echo 1 >/proc/sys/net/ipv6/conf/$f/disable_ipv6
done
ip -batch - <<LINES
link set lo up
link set vec0 up
addr add $ADDRESS dev vec0
route add default via $ROUTER
LINES
ethtool -K vec0 tx off rx off sg off tso off gso off gro off >/dev/null 2>&1
exec /mnt/guest/agent.sh /mnt/host
