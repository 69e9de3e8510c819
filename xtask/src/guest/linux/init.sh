#!/bin/busybox sh
# The first program of a guest whose initramfs is `shell` (xtask/src/guest/linux/initramfs.rs).
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
while read -r module; do
    insmod "/$module"
done < /modules/order
# Through the kernel's log, whose lines reach the console whole; 1 is louder than `quiet`.
echo '<1>cloister-guest: user space reached' > /dev/kmsg
clock=$(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)
echo "<1>cloister-guest: $(grep -c ^processor /proc/cpuinfo) processors, clock $clock" > /dev/kmsg
run=
for word in $(cat /proc/cmdline); do
    case $word in
    cloister.run=*) run=${word#cloister.run=} ;;
    esac
done
case $run in
poweroff) exec poweroff -f ;;
reboot) exec reboot -f ;;
offer)
    echo 'press Enter for a shell; without it this guest powers off in 10 seconds'
    read -r -t 10 _ || exec poweroff -f
    ;;
esac
cd /root
# A controlling terminal, so that Ctrl-C reaches what runs in the shell. Its end is the guest's.
# Setting a terminal waits until it has shown everything; the end of a session throws that away.
setsid cttyhack sh -c 'sh; stty sane'
exec poweroff -f
