# The files and directories of the lower: moved, copied, appended to, touched, removed and made again.
lower=$TOP/store
cp -a "$lower" before
chmod -R u+w before "$lower"
same_content() { diff -r --no-dereference "$1" "$2"; }
same_content before "$lower"
for path in "$lower"/*; do
  mv "$path" "$path.moved"
  mv "$path.moved" "$path"
  cp -a "$path" "$path.copy"
  rm -rf "$path.copy"
done
same_content before "$lower"
files=$(find "$lower" -type f | wc -l)
find "$lower" -type f -exec sh -c 'for file; do echo more >>"$file"; done' sh {} +
find "$lower" -exec touch -h {} +
[[ $(find "$lower" -type f -exec tail -qn 1 {} + | grep -c more) == "$files" ]]
find "$lower" -mindepth 1 -delete
[[ -z $(ls -A "$lower") ]]
cp -a before/. "$lower"
same_content before "$lower"
rm -rf "$lower"
mkdir "$lower"
[[ -z $(ls -A "$lower") ]]
