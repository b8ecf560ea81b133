#!/bin/sh
# Process 1 of the quickstart guest: load the drivers, count the boot, wait for the power button, print the uptime.
# What it prints is in /etc/quickstart, which quickstart.py writes.
export PATH=/bin HOME=/
. /etc/quickstart
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sysfs /sys
exec </dev/console >/dev/console 2>&1

for module in $(cat /etc/modules); do
    insmod "/lib/modules/$module"
done

# The counter lies in the sector that begins with its magic, whatever the disk is called. A sector is written whole or
# not at all.
count_the_boot() {
    for counter in /dev/vd?2 /dev/sd?2 /dev/nvme?n1p2; do
        [ -b "$counter" ] || continue
        read -r magic number <"$counter"
        [ "$magic" = "$COUNTER_MAGIC" ] || continue
        number=$((number + 1))
        if printf '%s %d\n' "$magic" "$number" | dd of="$counter" bs=512 conv=sync,fsync 2>/dev/null; then
            echo "$BOOT_NUMBER_PREFIX$number"
        else
            echo "quickstart guest: cannot write to $counter"
        fi
        return
    done
    echo "quickstart guest: its disk is not there"
}
count_the_boot

# 24 bytes are one struct input_event.
power_off_when_pressed() {
    dd bs=24 count=1 of=/dev/null 2>/dev/null
    echo "$POWERING_OFF_LINE"
    sync
    poweroff -f
}

# The button is opened here, before the guest says that it is up: from then on the kernel keeps each press for its
# reader. (acpid would open it at some later time, and a press before that would be lost.)
for device in /sys/class/input/event*; do
    read -r name <"$device/device/name"
    if [ "$name" = "Power Button" ]; then
        exec 3<"/dev/input/${device##*/}"
        power_off_when_pressed <&3 &
        exec 3<&-
    fi
done

# A machine may have no port for the agent; one that it has is there a moment after its driver.
serve_the_agent() {
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        for port in /sys/class/virtio-ports/*; do
            [ -e "$port/name" ] && read -r name <"$port/name"
            if [ "$name" = "org.qemu.guest_agent.0" ]; then
                /bin/busybox --install -s /bin
                exec qemu-ga --path "/dev/${port##*/}" --statedir /run >/dev/null 2>&1
            fi
        done
        sleep 1
    done
}
serve_the_agent &

echo "$UP_LINE"
/etc/network.sh &
while sleep "$UPTIME_INTERVAL_S"; do
    read -r uptime _ </proc/uptime
    [ -e /run/shell ] || echo "$UPTIME_PREFIX${uptime%.*}"
done &

echo "Press Enter for a shell."
while true; do
    if read -r _; then
        : >/run/shell # no uptime in between
        /bin/busybox --install -s /bin
        setsid cttyhack sh
        rm /run/shell
    else
        sleep 1 # nobody holds the other end of the serial port
    fi
done
