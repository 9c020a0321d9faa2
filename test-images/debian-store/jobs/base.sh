printf 'b\na\n' | sort | tr '\n' ' ' | grep -qx 'a b '
echo content >file && tar czf file.tar.gz file && rm file && tar xzf file.tar.gz && grep -q content file
[ "$(awk 'BEGIN { print 6 * 7 }')" = 42 ]
find . -name 'file*' | grep -c . | grep -qx 2
