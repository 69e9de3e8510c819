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
# Counts lines with a mark in the last 16 MiB of memory, up to a thousand. /proc/kcore shows memory
# behind the page of its headers and at the kernel's own addresses: without address randomization,
# RAM is mapped from 0xffff888000000000.
marks() {
    end=0x$(awk '/ : System RAM/ { split($1, range, "-"); end = range[2] } END { print end }' \
        /proc/iomem)
    dd if=/proc/kcore bs=1M skip=$(((0x088000000000 + end + 1 >> 20) - 16)) count=16 2> /dev/null |
        tr -d '\000' | grep -m 1000 -c "$mark"
}
case $run in
poweroff) exec poweroff -f ;;
reboot)
    # Joined here, so that this file itself has no mark.
    mark="of a former"_life
    before=$(marks)
    yes "$mark" | head -c 16000000 > /marks
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
