# Installs an older package, upgrades it, runs it, removes it and purges it.

# A running systemd, as maintainer scripts see it: what they tell it is written down.
mkdir -p /run/systemd/system
cat >/usr/local/bin/systemctl <<'EOF'
#!/bin/sh
echo "$*" >>/tmp/told
case "$*" in *is-enabled*) echo enabled ;; *is-active*) echo active ;; esac
EOF
chmod 755 /usr/local/bin/systemctl
told() { grep -E -- "$1" /tmp/told; }
not_told() { if told "$1"; then echo "systemd was told: $1"; return 1; fi; }

echo '--- install'
: >/tmp/told
dpkg --install /tmp/older.deb
not_told '(start|stop|enable).*heimdall'
heimdall --version
getent passwd heimdall
heimdall check --config /etc/heimdall/heimdall.toml >/tmp/checked
tail -n 1 /tmp/checked
test "$(dpkg-query --show --showformat='${Conffiles}' heimdall | wc -w)" = 2
for page in man1/heimdall.1 man1/heimdall-run.1 man1/heimdall-check.1 man5/heimdall.toml.5; do
    test -s "/usr/share/man/$page.gz"
done
test -s /usr/share/bash-completion/completions/heimdall
test -s /usr/share/zsh/vendor-completions/_heimdall
test -s /usr/share/fish/vendor_completions.d/heimdall.fish
for library in crates libelf zlib; do
    test -s "/usr/share/doc/heimdall/libraries/$library.copyright"
done
systemd-analyze verify --man=no heimdall.service
dpkg --verify heimdall

echo '--- upgrade'
echo '# of the operator' >>/etc/heimdall/heimdall.toml
mkdir -p /var/lib/heimdall /var/log/heimdall
: >/tmp/told
dpkg --install /tmp/heimdall.deb
told daemon-reload
told 'restart.*heimdall.service'
# Never a stop before a start: between them nobody would have the sockets.
not_told '(^| )stop( |$)'
grep 'of the operator' /etc/heimdall/heimdall.toml
test -d /var/lib/heimdall

echo '--- upgrade to a version that refuses the settings'
cp /etc/heimdall/heimdall.toml /tmp/accepted.toml
echo 'of-another-version = 1' >>/etc/heimdall/heimdall.toml
: >/tmp/told
dpkg --install /tmp/heimdall.deb 2>/tmp/said
cat /tmp/said
grep 'not restarted' /tmp/said
grep 'of-another-version' /tmp/said
not_told '(start|stop).*heimdall'
cp /tmp/accepted.toml /etc/heimdall/heimdall.toml

echo '--- run'
CONTROL=/tmp/control.sock
WORK=/tmp
server heimdall

echo '--- remove'
: >/tmp/told
dpkg --remove heimdall
told 'stop.*heimdall.service'
test ! -e /usr/bin/heimdall
grep 'of the operator' /etc/heimdall/heimdall.toml
test -d /var/lib/heimdall

echo '--- purge'
dpkg --purge heimdall
for left in /etc/heimdall /var/lib/heimdall /var/log/heimdall; do
    test ! -e "$left"
done
find / -xdev -name '*heimdall*' -not -path '/proc/*' -not -path '/tmp/*' >/tmp/left
cat /tmp/left
test ! -s /tmp/left
rm /usr/local/bin/systemctl
