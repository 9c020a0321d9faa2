echo 'int f(int x) { return x * x; }' >a.c
clang-14 -O2 -c a.c -o a.o
[ -s a.o ]
clang-14 --version >version && grep clang version
