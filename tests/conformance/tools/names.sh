# The longest name, one that is longer, and a file of that name moved, linked and removed.
longest=$(printf 'n%.0s' {1..255})
echo content >"$longest"
[[ $(ls) == "$longest" ]]
if touch "x$longest" 2>"$SCRATCH/error"; then exit 1; fi
grep -q 'File name too long' "$SCRATCH/error"
mkdir directory
mv "$longest" directory/
ln "directory/$longest" "${longest/n/x}"
rm "directory/$longest"
[[ $(cat "${longest/n/x}") == content ]]
[[ -z $(ls -A directory) ]]
mkdir "$longest"
rmdir "$longest" directory
