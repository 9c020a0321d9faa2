# A directory of many names that changes while it is read.
"$TREE" changing many $NAMES
rm -r many
