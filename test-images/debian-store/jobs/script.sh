lua5.4 -e 'print(6 * 7)' | grep -qx 42
echo 'puts [expr 6 * 7]' | tclsh8.6 | grep -qx 42
ruby3.1 --disable-gems -e 'puts 6 * 7' | grep -qx 42
php8.2 -r 'echo 6 * 7;' | grep -qx 42
