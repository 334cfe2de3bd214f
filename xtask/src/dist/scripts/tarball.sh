# Unpacks the tarball in /usr/local.
echo '--- tarball'
tar -xzf /tmp/heimdall.tar.gz -C /usr/local --strip-components=1
heimdall --version
systemd-sysusers
getent passwd heimdall
systemd-analyze verify --man=no heimdall.service
CONTROL=/tmp/control.sock
WORK=/tmp
server heimdall
