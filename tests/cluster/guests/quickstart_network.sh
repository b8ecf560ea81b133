#!/bin/sh
# The network of the quickstart guest. Without arguments: bring up each adapter, ask for its addresses, serve one page.
# As udhcpc's script ($1 is what happened, the lease is in the environment): take the lease, or give it back.
export PATH=/bin
. /etc/quickstart

case "$1" in
"")
    mkdir -p /www
    echo "$PAGE" >/www/index.html
    ip link set lo up
    httpd -h /www -p 80
    for link in /sys/class/net/eth*; do
        [ -e "$link" ] || continue
        ip link set "${link##*/}" up
        # In the background, for ever: a network may come later.
        udhcpc -i "${link##*/}" -s "$0" -O mtu -O staticroutes -t 3 -T 2 -A 3 -b >/dev/null 2>&1
    done
    ;;
deconfig)
    ip -4 address flush dev "$interface"
    ;;
bound | renew)
    ip address replace "$ip/$mask" dev "$interface"
    [ -n "$mtu" ] && ip link set "$interface" mtu "$mtu"
    # RFC 3442: who got classless routes ignores the router option.
    if [ -n "$staticroutes" ]; then
        set -- $staticroutes
        while [ $# -ge 2 ]; do
            if [ "$2" = 0.0.0.0 ]; then
                ip route replace "$1" dev "$interface"
            else
                ip route replace "$1" via "$2" dev "$interface"
            fi
            shift 2
        done
    elif [ -n "$router" ]; then
        ip route replace default via "${router%% *}" dev "$interface"
    fi
    : >/etc/resolv.conf
    [ -n "$domain" ] && echo "search $domain" >>/etc/resolv.conf
    for server in $dns; do
        echo "nameserver $server" >>/etc/resolv.conf
    done
    # A renewal is no news.
    [ "$1" = bound ] && echo "$ADDRESS_PREFIX$interface $ip" >/dev/console
    ;;
esac
exit 0
