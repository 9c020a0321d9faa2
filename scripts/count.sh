# Sourced: count LOG prints how many tests passed, failed and were skipped: of libtest's `test result:` lines and lines `N passed, N failed`
# of our scripts, less those that say `skipped: TEST: WHY`, each once.
count() {
  local passed failed skipped
  read -r passed failed < <(grep -hE '^(check: |test result: |[0-9]+ passed, [0-9]+ failed)' "$1" |
    awk '{ for (i = 2; i <= NF; i++) { if ($i ~ /^passed[;,]?$/) p += $(i-1); if ($i ~ /^failed[;,]?$/) f += $(i-1) } } END { print p + 0, f + 0 }')
  skipped=$(sed -n 's/^skipped: \([A-Za-z0-9_:]*\): .*/\1/p; t; s/^skipped: //p' "$1" | sort -u | wc -l)
  [[ $(grep -c '^check: ' "$1") -gt 0 ]] || passed=$((passed - skipped))
  echo "$passed $failed $skipped"
}
