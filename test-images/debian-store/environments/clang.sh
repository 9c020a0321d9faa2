# packages: clang-14 lld-14 libc6-dev
link_programs
