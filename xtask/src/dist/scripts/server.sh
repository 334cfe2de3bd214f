# A server on loopback, as the command of the arguments starts it: it tells its state, and ends when it is told to.
# CONTROL is its control socket, as it sees it, and SETTINGS its settings file, if it has one; WORK a directory for files.
server() {
    # Without what an earlier one has logged.
    : >"$WORK/log"
    "$@" run ${SETTINGS:+--config "$SETTINGS"} --backend socket --listen 127.0.0.1:5300 --upstream 127.0.0.1:5301 --cache-size 1M \
        --control "$CONTROL" 2>"$WORK/log" &
    pid=$!
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        grep -q ready: "$WORK/log" && break
        sleep 0.3
    done
    cat "$WORK/log"
    "$@" stats --control "$CONTROL" >"$WORK/stats"
    head -n 3 "$WORK/stats"
    kill -TERM "$pid"
    wait "$pid"
}
