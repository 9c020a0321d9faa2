/* What a program gets that has 32 bits for inode numbers and positions: for each argument the errors of stat(2) and
   readdir(3), and how many names there were. Built with gcc -m32 and without large files. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>

_Static_assert(sizeof(((struct stat *)0)->st_ino) == 4 && sizeof(off_t) == 4, "not the old interface");

int main(int count, char **arguments) {
    for (int i = 1; i < count; i++) {
        struct stat found;
        int error = stat(arguments[i], &found) == 0 ? 0 : errno;
        int names = 0;
        DIR *directory = opendir(arguments[i]);
        errno = 0;
        while (directory && readdir(directory))
            names++;
        printf("%d %d %d\n", error, directory ? errno : -1, names);
    }
    return 0;
}
