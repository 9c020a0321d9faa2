# packages: sqlite3 redis-server redis-tools postgresql-15 postgresql-client-15
link_programs
for path in $closure; do
  if [ -d "$path/lib/postgresql/15/bin" ]; then ln -s "$path"/lib/postgresql/15/bin/* bin/; fi
done
