echo '{"a": 1}' | jq -c .a | grep -qx 1
echo needle >file && rg -q needle file
mkdir to && rsync -a file to/ && grep -q needle to/file
curl -s "file://$PWD/file" | grep -x needle
for program in 'strace -V' 'vim.tiny --version' 'wget --version' 'file --version' 'less --version'; do
  $program >/dev/null
done
