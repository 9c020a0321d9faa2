# Sourced by `test` and `nightly`: runs phases, counts what they tell, and cleans up. Uses: target, work, sudo. Logs go to target/test-logs.
. scripts/count.sh
passed=0 failed=0 skipped=0 broken=() table=() running=
logs=$target/test-logs; rm -rf "$logs"; mkdir -p "$logs"

# phase NAME SECONDS COMMAND...: runs a command, shows its progress, adds up its results.
phase() {
  local name=$1 seconds=$2 log=$logs/$1.log start=$SECONDS status p f s
  shift 2
  echo "== $name (at most $((seconds / 60)) minutes; all of it in $log)"
  : >"$log"
  # In the background, so that an interrupt is served at once; clean_up then ends it.
  timeout -k 30 "$seconds" "$@" >"$log" 2>&1 </dev/null &
  running=$!
  tail -n +1 -f --pid=$running "$log" | grep --line-buffered -E '^(ok|FAILED|installing|debian-store:|test .*FAILED)'
  wait $running; status=$?
  running=
  read -r p f s < <(count "$log")
  if [[ $status -ne 0 ]]; then
    broken+=("$name (exit $status)")
    [[ $f -gt 0 ]] || f=1
    tail -n 60 "$log"
  fi
  passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
  table+=("$(printf '%-14s %5d passed, %d failed, %d skipped, %4d s' "$name" "$p" "$f" "$s" "$((SECONDS - start))")")
  echo "   ${table[-1]}"
}

# What ran, what was skipped and why, and one line of counts; false if something failed.
sum_up() {
  echo
  printf '%s\n' "${table[@]}"
  grep -hs '^skipped: ' "$logs"/*.log | sort | uniq -c
  [[ ${#broken[@]} -eq 0 ]] || printf 'failed: %s\n' "${broken[@]}"
  echo "$passed passed, $failed failed, $skipped skipped"
  [[ $failed -eq 0 && ${#broken[@]} -eq 0 ]]
}

# The programs of test targets of the workspace, all of which are built.
executables() {
  local options=() name
  for name; do [[ $name == lib ]] && options+=(--lib) || options+=(--test "$name"); done
  cargo test --workspace --no-run "${options[@]}" 2>&1 | sed -n 's/^ *Executable .*(\(.*\))$/\1/p'
}

# Ends what still runs. Mounts below the work directory end their servers; what lies there goes, whoever made it.
clean_up() {
  trap - EXIT
  local mountpoint process
  for process in $running; do kill "$process"; wait "$process"; done
  awk -v work="$work/" 'index($5, work) == 1 { print $5 }' /proc/self/mountinfo | sort -r | while read -r mountpoint; do
    "${sudo[@]}" umount "$mountpoint" || "${sudo[@]}" umount -l "$mountpoint"
  done
  "${sudo[@]}" rm -rf --one-file-system "$work"
}
