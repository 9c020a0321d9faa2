# Sourced by `test`: runs phases, counts what they tell, and cleans up. Logs go to target/test-logs.
passed=0 failed=0 skipped=0 broken=() running= building=
logs=target/test-logs; rm -rf "$logs"; mkdir -p "$logs"

# phase NAME SECONDS COMMAND...: runs a command, shows its progress, adds up its results.
phase() {
  local name=$1 seconds=$2 log=$logs/$1.log start=$SECONDS status p f s
  shift 2
  echo "== $name (at most $((seconds / 60)) minutes; all of it in $log)"
  # In the background, so that an interrupt is served at once; clean_up then ends it.
  timeout -k 30 "$seconds" "$@" >"$log" 2>&1 </dev/null &
  running=$!
  tail -n +1 -f --pid=$running "$log" | grep --line-buffered -E '^(ok|FAILED|installing|debian-store:|test .*FAILED)'
  wait $running; status=$?
  running=
  # libtest's `test result:` lines, and lines `N passed, N failed` of our scripts.
  read -r p f < <(awk '{ for (i = 2; i <= NF; i++) { if ($i ~ /^passed[;,]?$/) p += $(i-1); if ($i ~ /^failed[;,]?$/) f += $(i-1) } }
    END { print p + 0, f + 0 }' <(grep -E '^(test result: |[0-9]+ passed, [0-9]+ failed)' "$log"))
  s=$(grep -c '^skipped: ' "$log")
  if [[ $status -ne 0 ]]; then
    broken+=("$name (exit $status)")
    [[ $f -gt 0 ]] || f=1
    tail -n 60 "$log"
  fi
  passed=$((passed + p - s)) failed=$((failed + f)) skipped=$((skipped + s))
  echo "   $((p - s)) passed, $f failed, $s skipped, $((SECONDS - start)) s"
}

# Ends what still runs. Mounts below the work directory end their servers; what lies there goes, whoever made it.
clean_up() {
  trap - EXIT
  local mountpoint process
  for process in $running $building; do kill "$process"; wait "$process"; done
  awk -v work="$work/" 'index($5, work) == 1 { print $5 }' /proc/self/mountinfo | sort -r | while read -r mountpoint; do
    "${sudo[@]}" umount "$mountpoint" || "${sudo[@]}" umount -l "$mountpoint"
  done
  "${sudo[@]}" rm -rf --one-file-system "$work"
}
