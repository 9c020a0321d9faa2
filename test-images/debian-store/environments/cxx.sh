# packages: gcc-12 g++-12 cpp-12 binutils libc6-dev make cmake gdb
link_programs
gcc
