# A tree copied within the file system, moved within it, out of it and in again.
make_tree source
cp -a source copy
same source copy
mv copy moved
same source moved
mv moved "$SCRATCH/moved"
same source "$SCRATCH/moved"
mv "$SCRATCH/moved" back
same source back
cp -a --reflink=auto --sparse=always source/sparse sparse
cmp source/sparse sparse
rm -rf back source
[[ $(ls) == sparse ]]
