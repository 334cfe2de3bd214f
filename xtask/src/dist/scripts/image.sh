# Runs a server in the image's file system, as its user. There is no shell in it, so this is the host's.
ip link set lo up
# As every container has it.
mkdir -p "$1/proc"
mount -t proc proc "$1/proc"
# A blocklist needs a directory for temporary files.
SETTINGS=/etc/heimdall/lists.toml
printf '[[blocklist]]\nfile = "/etc/heimdall/blocked.txt"\n' >"$1$SETTINGS"
echo ads.example >"$1/etc/heimdall/blocked.txt"
CONTROL=/run/heimdall/control.sock
WORK=${1%/*}
server chroot --userspec=65532:65532 "$1" /usr/bin/heimdall
