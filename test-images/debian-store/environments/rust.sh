# packages: rustc cargo gcc-12 cpp-12 binutils libc6-dev
link_programs
gcc
farm lib/rustlib
wrap rustc "$(find1 bin/rustc)" "" "--sysroot=$out -C linker=$out/bin/gcc"
