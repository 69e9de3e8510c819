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
# Counts lines with a mark in the last 16 MiB of memory, up to a thousand. The searcher is in memory
# too, wherever the kernel puts it: its pattern is none that it matches. /proc/kcore shows memory
# behind the page of its headers and at the kernel's own addresses: without address randomization,
# RAM is mapped from 0xffff888000000000.
marks() {
    end=0x$(awk '/ : System RAM/ { split($1, range, "-"); end = range[2] } END { print end }' \
        /proc/iomem)
    dd if=/proc/kcore bs=1M skip=$(((0x088000000000 + end + 1 >> 20) - 16)) count=16 2> /dev/null |
        tr -d '\000' | grep -m 1000 -c 'of a forme[r]_life'
}
case $run in
poweroff) exec poweroff -f ;;
reboot)
    before=$(marks)
    # Joined here, so that neither this file nor what was searched before has a mark.
    yes "of a former"_life | head -c 16000000 > /marks
    echo "<1>cloister-guest: marks in memory: $before before, $(marks) after" > /dev/kmsg
    exec reboot -f
    ;;
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
