# packages: gcc-12 cpp-12 binutils libc6-dev make
link_programs
gcc
