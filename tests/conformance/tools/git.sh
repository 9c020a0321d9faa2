# A repository that is made, cloned, worked in, packed and checked.
git() { command git -c user.name=a -c user.email=a@b.c -c init.defaultBranch=main "$@"; }
make_tree source
rm source/fifo source/char source/block source/empty
git init -q source
git -C source add -A
git -C source commit -qm first
git clone -q --no-local source clone
cd clone
for n in 1 2 3 4 5; do
  mkdir "new$n"
  echo "$n" | tee -a d1/b/f1 >"new$n/file"
  git add -A
  git commit -qm "change $n"
done
git gc -q --prune=now
git fsck --full --strict
git checkout -q HEAD~3
[[ -z $(git status --porcelain) ]]
git mv d2 moved
git stash -q
git worktree add -q ../worktree HEAD~1
git repack -adq
git push -q ../source HEAD:refs/heads/other
git fsck --full --strict
git -C ../source fsck --full --strict
[[ $(git rev-parse HEAD) == $(git -C ../source rev-parse other) ]]
git worktree remove ../worktree
