cat >a.c <<'C'
#include <math.h>
#include <stdio.h>
int main(void) { printf("%.0f from C\n", sqrt(1764)); return 0; }
C
gcc -O2 a.c -o a -lm
./a | grep -x '42 from C'
printf 'all:\n\t@echo made\n' >Makefile && make | grep -qx made
