git init -q repository && cd repository
git config user.name a && git config user.email a@example.org
echo one >file && git add file && git commit -q -m first
git log --format=%s | grep -x first
git gc -q && git fsck --strict
perl -MPOSIX -MList::Util=sum -e 'exit(sum(1, 2) != 3)'
