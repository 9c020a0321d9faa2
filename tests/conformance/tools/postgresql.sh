# A database server: load, a kill in the middle of its work, recovery, and the checksums of all its pages.
bin=$(find /usr/lib/postgresql -maxdepth 2 -name bin 2>/dev/null | sort -V | tail -n 1)
[[ -x $bin/initdb ]] || cannot "PostgreSQL is not installed"
chmod 755 .
install -d -o nobody -m 700 cluster
cd cluster
as() { setpriv --reuid=nobody --regid=nogroup --clear-groups "$@"; }
begin() { as "$bin/pg_ctl" -D data -o "-k $PWD -c listen_addresses= -c shared_buffers=32MB" -l log -w start; }
ask() { as "$bin/psql" -h "$PWD" -Atc "$1" postgres; }
as "$bin/initdb" -D data -U nobody -A trust --data-checksums
begin
as "$bin/pgbench" -h "$PWD" -i -s 2 postgres
as "$bin/pgbench" -h "$PWD" -c 4 -j 2 -T 20 postgres &
sleep 6
kill -9 "$(head -n 1 data/postmaster.pid)"
wait $! || true
for _ in $(seq 100); do pgrep -u nobody -f "$PWD|postgres: " >/dev/null || break; sleep 0.1; done
rm -f data/postmaster.pid
begin
[[ $(ask 'select count(*) from pgbench_accounts') == 200000 ]]
[[ $(ask 'select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)') == t ]]
ask 'vacuum full' >/dev/null
as "$bin/pg_ctl" -D data -w stop
as "$bin/pg_checksums" -c -D data
