#!/usr/bin/env bash
# The first process of a host: plugs it in, mounts what is its own, then collects orphans until it is killed.
set -euo pipefail

# /proc is still the machine's, and so are the process ids in it.
read -r pid _ </proc/self/stat
switch=/proc/$SWITCH/ns/net

ip link set lo up
# The hardware address stays the same, so that after a reboot the others' ARP tables are right.
ip link add eth0 address "$HARDWARE" type veth peer name "$NAME" netns "$switch"
ip address add "$ADDRESS/24" dev eth0
ip link set eth0 up
ip route add default via "$GATEWAY"
nsenter --net="$switch" ip link set dev "$NAME" master hosts up
hostname "$NAME"

# The disk holds three folders. Code, interpreter and programs below one of them stay visible.
install -d -m 0700 "$DISK/root"
install -d -m 1777 "$DISK/tmp"
install -d -m 0755 "$DISK/srv"
while read -r path; do
    [ -n "$path" ] || continue
    mkdir -p "$DISK$path"
    mount --bind "$path" "$DISK$path"
done <<<"$VISIBLE"
mount -t tmpfs -o size=4g shm /dev/shm
mount -t tmpfs run /run
if [ -n "$CLOCK" ]; then
    truncate --size=8 /run/clock
    cp "$CLOCK" /run/clock.so
    cp -a /etc /run/etc
    # Not in LD_PRELOAD: sshd clears it, and Ray takes it from its workers, and its own library from raylet.
    echo /run/clock.so >>/run/etc/ld.so.preload
    mount --bind /run/etc /etc
fi
mount --bind "$NAMES" /etc/hosts
# No name server: a client that asks one although /etc/hosts has the name, as Arrow's does, is refused at once.
echo 'nameserver 127.0.0.1' >/run/resolv.conf
mount --bind /run/resolv.conf /etc/resolv.conf
mount --rbind "$DISK/root" /root
mount --rbind "$DISK/srv" /srv
mount --rbind "$DISK/tmp" /tmp
mount -t proc proc /proc
cd /root

echo "$pid"
exec </dev/null >/dev/null 2>&1
while :; do
    sleep infinity &
    wait $!
done
