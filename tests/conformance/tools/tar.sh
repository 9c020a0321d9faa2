# A tree through an archive, back into the file system and out of it.
make_tree source
tar --xattrs --xattrs-include='*' --sparse -cf "$SCRATCH/archive" -C source .
for to in "$PLACE/out" "$SCRATCH/out"; do
  mkdir "$to"
  tar --xattrs --xattrs-include='*' -xpf "$SCRATCH/archive" -C "$to"
  same source "$to"
done
rm -rf "$SCRATCH/out" "$SCRATCH/archive"
