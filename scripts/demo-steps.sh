# Sourced by `demo`: its steps. Uses: NIXVIEW, work, root, store.
stop() { echo "demo: $*" >&2; exit 1; }
step() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
run() { printf '$ %s\n' "$(sed "s|$work|…|g; s|$NIXVIEW|nixview|; s|/nix/store/\([a-z0-9]\{6\}\)[a-z0-9]*|/nix/store/\1…|g" <<<"$*")"; "$@"; }
output() { awk -F'\t' -v name="$1" '$1 == name { print $2 }' "$work/out/envs.tsv"; }
paths() { "$NIXVIEW" closure --store "$store" --paths "$work/$1.lock" | sort; }
bytes() { sed "s|^|$root|" | tr '\n' '\0' | du --files0-from=- -sc --block-size=1 --apparent-size | tail -1 | cut -f1; }

# A hash over names, modes, owners, sizes, times, links and contents of a tree.
fingerprint() {
  (cd "$1" && { find . -printf '%p %y %m %U:%G %s %T@ %l\n' | sort; find . -type f -print0 | sort -z | xargs -0 sha256sum; }) |
    sha256sum | cut -c1-16
}
same() { [[ $2 == "$3" ]] || stop "$1 has changed: $2 before, $3 after"; echo "unchanged: $1 ($3)"; }

# in_view VIEW COMMAND...: an otherwise empty container with the view at /nix, its programs in PATH, and those of its first
# environment where Debian's programs expect each other.
in_view() {
  local view=$1 path first
  shift
  case $view in a) path="$(output python)/bin:$(output c)/bin" ;; b) path=$(output web)/bin ;; esac
  first=${path%%:*}
  bwrap --unshare-all --die-with-parent --clearenv --setenv PATH "$path" --setenv HOME /tmp --setenv ENV "${first%/bin}" \
    --bind "$work/$view" /nix --symlink "$first" /bin --dir /usr --symlink "$first" /usr/bin --proc /proc --dev /dev --tmpfs /tmp --ro-bind test-images/debian-store/etc /etc --chdir /tmp "$@"
}

what_they_cost() {
  paths a >"$work/a.paths"; paths b >"$work/b.paths"
  comm -12 "$work/a.paths" "$work/b.paths" >"$work/both.paths"
  printf '%-8s %6s paths %12s bytes\n' \
    A "$(wc -l <"$work/a.paths")" "$(bytes <"$work/a.paths")" B "$(wc -l <"$work/b.paths")" "$(bytes <"$work/b.paths")" \
    shared "$(wc -l <"$work/both.paths")" "$(bytes <"$work/both.paths")"
  printf '%-8s %6s paths of %s in the store\n' together "$(sort -u "$work"/[ab].paths | wc -l)" "$(find "$store" -mindepth 1 -maxdepth 1 | wc -l)"
}

run_programs() {
  step "A: Python"
  in_view a python3 -c 'import ssl, sqlite3, asyncio; print("imported", ssl.OPENSSL_VERSION, "and SQLite", sqlite3.sqlite_version)'
  step "A: a C program, compiled and run"
  in_view a bash -euo pipefail -c "$(cat test-images/debian-store/jobs/c.sh)"
  step "B: HTTP from nginx under s6"
  in_view b bash -euo pipefail -c "$(cat test-images/debian-store/jobs/web.sh)"
}

# absent COMMAND...: fails in A, with ENOENT.
absent() {
  local said
  said=$(in_view a "$@" 2>&1) && stop "'$*' works in A"
  tail -1 <<<"$said" | grep 'No such file or directory' || stop "'$*' fails otherwise: $said"
}

show_isolation() {
  step "What only B has does not exist in A"
  local path
  path=$(comm -13 "$work/a.paths" "$work/b.paths" | grep -- '-nginx-[0-9]' | head -1)
  [[ -n $path ]] || stop "B has no nginx of its own"
  in_view b ls -d "$path"
  absent ls -d "$path"
  absent stat "$path"
  absent python3 -c 'import sys, os; os.open(sys.argv[1], os.O_RDONLY)' "$path/bin/nginx"
  in_view a bash -c 'ls /nix/store | wc -l' | sed 's/$/ paths are all that A lists/'
}

change_a() {
  step "A changes its /nix: writes, deletes"
  local victim
  victim=$(grep -- '-sed-[0-9]' "$work/both.paths" | head -1)
  in_view a bash -euc 'chmod u+w /nix/store "$0" "$0"/bin "$0"/bin/sed
    echo "of my own" >/nix/store/mine; echo "no longer a program" >"$0/bin/sed"; chmod -R u+w "$0/share"; rm -r "$0/share"
    ls "$0"; head -c 40 "$0/bin/sed"; cat /nix/store/mine' "$victim"
  in_view b bash -euc 'echo "and in B: $("$0/bin/sed" s/broken/whole/ <<<"sed is broken")"; [ ! -e /nix/store/mine ]; [ -d "$0/share" ]' "$victim"
}

leave_nothing() {
  run "$NIXVIEW" umount a
  run "$NIXVIEW" umount b
  ! grep -q " $work/" /proc/self/mountinfo || stop "a mount stays"
  local process
  for process in /proc/[0-9]*; do
    [[ $(cat "$process/comm" 2>/dev/null) == nixview ]] || continue
    ! grep -qsz "^NIXVIEW_RUNTIME_DIR=$NIXVIEW_RUNTIME_DIR$" "$process/environ" || stop "process ${process#/proc/} stays"
  done
  clean_up
  echo "no mount, no process, no file is left"
}

clean_up() {
  trap - EXIT
  local view
  for view in a b; do
    if mountpoint -q "$work/$view"; then "$NIXVIEW" umount "$work/$view" || umount -l "$work/$view" || true; fi
  done
  rm -rf --one-file-system "$work"
}
