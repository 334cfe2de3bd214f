# Makes two taps with a bridge between them, in a network namespace that goes with this process, and becomes the command
# in its arguments.
test -e /dev/net/tun || { echo "no /dev/net/tun: modprobe tun"; exit 1; }
ip link add br0 type bridge mcast_snooping 0 forward_delay 0
ip link set br0 up
for tap in tap0 tap1; do
    ip tuntap add "$tap" mode tap multi_queue vnet_hdr
    ip link set "$tap" master br0 up
done
exec "$@"
