# Many stressors at once, copies and removals of the same tree beside them; in the end nothing is left.
mkdir stress
stress-ng --dir 1 --dirdeep 1 --rename 1 --link 1 --symlink 1 --hdd 1 --hdd-bytes 8M --fallocate 1 --fallocate-bytes 4M --dentry 1 \
  --chmod 1 --getdent 1 --utime 1 --xattr 1 -t "$DURATION" --verify --temp-path "$PLACE/stress" >"$SCRATCH/stress" 2>&1 &
stress=$!
make_tree source
for round in 1 2 3; do
  copies=()
  for n in 1 2 3; do
    (cp -a source "copy$n" && mv "copy$n" "moved$n" && rm -rf "moved$n") &
    copies+=($!)
  done
  for copy in "${copies[@]}"; do wait "$copy" || { echo "round $round"; exit 1; }; done
done
wait "$stress" || { grep -E 'fail|error' "$SCRATCH/stress"; exit 1; }
rm -rf source stress
[[ -z $(ls -A) ]]
