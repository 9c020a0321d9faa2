# A tree out of the file system and into it, with links and attributes; the second time there is nothing to do.
make_tree source
# rsync does not keep the times of these, on any file system.
rm source/fifo source/char source/block source/dangling
rsync -aHX --delete source/ "$SCRATCH/out/"
same source "$SCRATCH/out"
rsync -aHX --delete "$SCRATCH/out/" in/
same source in
again=$(rsync -aHX --itemize-changes --delete source/ in/)
[[ -z $again ]] || { echo "again: $again"; exit 1; }
echo more >>source/d1/b/f8
rm -r source/d5
rsync -aHX --inplace --delete source/ in/
same source in
rm -rf "$SCRATCH/out"
