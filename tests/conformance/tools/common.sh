# Before every script, which runs in PLACE, a directory of the file system at TOP. SCRATCH is a plain directory, TREE tells trees.
# NAMES is a number of things that is large, DURATION one of seconds.
cd "$PLACE"

# cannot WHY: the case is skipped.
cannot() { echo "$1"; exit 77; }

# same A B: two trees have the same names, kinds, modes, owners, links, times, contents and attributes.
same() { diff <("$TREE" tree "$1") <("$TREE" tree "$2") >"$SCRATCH/differences" || { head -n 6 "$SCRATCH/differences"; return 1; }; }

# make_tree DIR: a bit of all that a tree can have.
make_tree() {
  mkdir "$1"
  local n top=$1
  for n in $(seq 120); do
    mkdir -p "$top/d$((n % 7))/b"
    head -c $((n * 37)) /dev/urandom >"$top/d$((n % 7))/b/f$n"
  done
  ln "$top/d1/b/f1" "$top/hard"
  ln -s d1/b/f1 "$top/link"; ln -s nowhere "$top/dangling"
  mkfifo "$top/fifo"; mknod "$top/char" c 1 3; mknod "$top/block" b 7 9
  truncate -s 5M "$top/sparse"; printf x | dd of="$top/sparse" bs=1 seek=3000000 conv=notrunc status=none
  setfattr -n user.a -v b "$top/hard"; setfattr -n trusted.t -v v "$top/d1/b"
  cp /bin/true "$top/capable"; setcap cap_net_raw+ep "$top/capable"
  touch "$top/$(printf 'a\nb')" "$top/$(printf 'not\377utf8')" "$top/empty"
  chown 12:34 "$top/d3"; chmod 2775 "$top/d2"; chmod 4755 "$top/d2/b/f2"; chmod 0 "$top/empty"
  touch -h -d 1999-01-01 "$top/link"; touch -d '2001-02-03 04:05:06.123456789' "$top/d4/b/f4"
}
