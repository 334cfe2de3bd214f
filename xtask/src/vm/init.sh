#!/bin/busybox sh
# The guest's first process. It mounts the host's file system, and over it a layer in memory that takes all that is
# written; then `xtask guest` goes on there.

/bin/busybox --install -s /bin
export PATH=/bin
stop() { echo "init: $*"; poweroff -f; }

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in /modules/*; do
    insmod "$module" || stop "cannot load $module"
done
options=trans=virtio,version=9p2000.L,ro,msize=524288,cache=loose
mount -t 9p -o "$options" host /host || stop "cannot mount the host's file system"
mount -t tmpfs -o size=80% layer /layer
mkdir /layer/upper /layer/work
options=lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work
mount -t overlay -o "$options" root /root || stop "cannot mount the layer over it"
cd /root
mount -t proc proc proc
mount -t sysfs sys sys
mount -t devtmpfs dev dev
mkdir -p dev/pts dev/shm
mount -t devpts pts dev/pts
mount -t tmpfs shm dev/shm
mount -t tmpfs run run
mount -t bpf bpf sys/fs/bpf
mount -t cgroup2 cgroup sys/fs/cgroup
mount -t debugfs debug sys/kernel/debug
cp /plan.json run/heimdall-guest.json
read -r xtask < /xtask

export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
exec /bin/switch_root /root /bin/sh -c '"$0" guest; echo o > /proc/sysrq-trigger; sleep 60' "$xtask"
