# packages: gcc-12 g++-12 cpp-12 binutils libc6-dev make cmake gdb
link_programs
gcc
# cmake looks for its modules beside the file that is executed: a link would lead it to a package without them.
farm share/cmake-3.25
rm bin/cmake
cp "$(find1 bin/cmake)" bin/cmake
farm lib/python3.11
wrap gdb "$(find1 bin/gdb)" "export PYTHONHOME=$out"
