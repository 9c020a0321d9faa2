# A database with a write-ahead log: four writers at once, each with readers between its writes.
rows=$NAMES
sqlite3 db "pragma journal_mode=wal; create table t(a integer primary key, b);
  with recursive c(n) as (select 1 union all select n + 1 from c where n < $rows) insert into t select n, hex(randomblob(20)) from c;" >/dev/null
writers=()
for writer in 1 2 3 4; do
  (for n in $(seq 25); do
    sqlite3 -cmd '.timeout 60000' db "insert into t(b) values('$writer-$n'); select count(*) from t;" >/dev/null || exit 1
  done) &
  writers+=($!)
done
for writer in "${writers[@]}"; do wait "$writer"; done
[[ $(sqlite3 db 'select count(*) from t') == $((rows + 100)) ]]
[[ $(sqlite3 db 'pragma integrity_check') == ok ]]
sqlite3 db 'pragma wal_checkpoint(truncate); vacuum' >/dev/null
[[ $(sqlite3 db 'pragma integrity_check') == ok ]]
