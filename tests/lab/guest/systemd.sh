#!/bin/bash
# Process 1 of a user-mode-linux guest that becomes systemd: as init.sh, but over the whole of / goes one overlay, and
# the agent is a service. lab_dir=DIR is the guest's own directory on the real machine, CHECKOUT in its env this project.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C
# newer kernels take the path of a hostfs only from mount(2), newer mounts use it only when told
export LIBMOUNT_FORCE_MOUNT2=always
exec </dev/console >/dev/console 2>&1
here=${0%/*}
mount -t proc proc /proc
. "${lab_dir:?}/env" # NAME ADDRESS ROUTER CACHE CHECKOUT
read -r _ _ version _ </proc/version
modules="$CACHE/uml/usr/lib/uml/modules/$version"
insmod "$modules/kernel/fs/overlayfs/overlay.ko"
root=/mnt/root
mount -t tmpfs tmpfs /mnt
mkdir -p /mnt/{machine,upper,work,root}
mount -t hostfs -o / none /mnt/machine
mount -t overlay overlay -o lowerdir=/mnt/machine,upperdir=/mnt/upper,workdir=/mnt/work $root
mount -t devtmpfs dev $root/dev
mount -t tmpfs tmpfs $root/run
mkdir -p $root/opt/{lab,guest,checkout}
mount -t hostfs -o "$lab_dir" none $root/opt/lab
mount -t hostfs -o "$here" none $root/opt/guest
mount -t hostfs -o "$CHECKOUT" none $root/opt/checkout

mkdir -p $root/usr/lib/modules
ln -s "$modules" $root/usr/lib/modules/
chroot $root modprobe dummy

units=$root/etc/systemd/system
# what the machine's own configuration would start or mount is none of our business
rm -rf "$units" $root/etc/fstab
mkdir -p "$units"
: >$root/etc/machine-id
for unit in systemd-{tmpfiles-setup,udevd,udev-trigger,journal-flush}.service; do ln -s /dev/null "$units/$unit"; done
cat >"$units/agent.service" <<'UNIT'
[Unit]
DefaultDependencies=no
[Service]
ExecStart=/opt/guest/agent.sh /opt/lab
UNIT

ip -batch - <<LINES
link set lo up
link set vec0 up
addr add $ADDRESS dev vec0
LINES
umount /proc
cd $root || exit 1
exec chroot . /lib/systemd/systemd --unit=agent.service --show-status=0 --log-target=null
