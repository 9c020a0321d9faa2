sqlite3 :memory: 'select 6 * 7' | grep -x 42
redis-server --port 0 --unixsocket "$PWD/redis" --daemonize yes >/dev/null
for _ in $(seq 100); do [ -S redis ] && break; sleep 0.1; done
redis-cli -s "$PWD/redis" set key value | grep -qx OK
redis-cli -s "$PWD/redis" get key | grep -x value
redis-cli -s "$PWD/redis" shutdown nosave
psql --version && postgres --version
