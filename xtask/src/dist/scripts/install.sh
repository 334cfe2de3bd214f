# Builds where nothing but the packages that a build needs is installed. The Rust toolchain and the sources of the
# crates are the host's.
echo '--- cargo install --path heimdall-user'
cd /root/heimdall
cargo install --quiet --debug --offline --locked --path heimdall-user --root /usr/local
heimdall --version
