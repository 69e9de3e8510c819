#!/bin/busybox sh
# The first program of a guest whose initramfs is `disk` (xtask/src/guest/linux/initramfs.rs): loads
# modules and hands over to /sbin/init on the disk that root= names.
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
say() { echo "<1>cloister-guest: $*" > /dev/kmsg; }
while read -r module; do
    insmod "/$module"
done < /modules/order
root=/dev/vda
for word in $(cat /proc/cmdline); do
    case $word in
    root=*) root=${word#root=} ;;
    esac
done
# A disk appears some time after its module was loaded; thirty seconds are longer than any takes.
tries=600
while [ ! -b "$root" ] && [ "$tries" -gt 0 ]; do
    sleep 0.05
    tries=$((tries - 1))
done
if [ ! -b "$root" ]; then
    say "there is no disk $root"
    exec poweroff -f
fi
# Not written yet: the program on the disk asks for that.
if ! mount -t ext4 -o ro "$root" /root; then
    say "there is no file system ext4 on $root"
    exec poweroff -f
fi
umount /sys /proc
mount -o move /dev /root/dev
exec switch_root /root /sbin/init
