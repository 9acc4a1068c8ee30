/* What the conformance suite of the transports runs on a board: good and bad behaviour by name. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "";
    int i;
    if (strcmp(mode, "args") == 0) {
        for (i = 2; i < argc; ++i) {
            printf("%s\n", argv[i]);
        }
    } else if (strcmp(mode, "lines") == 0) { /* COUNT MICROSECONDS: one line at a time */
        for (i = 0; i < atoi(argv[2]); ++i) {
            printf("line %d\n", i);
            fflush(stdout);
            usleep((useconds_t)atoi(argv[3]));
        }
    } else if (strcmp(mode, "gate") == 0) { /* FILE: goes on when it is there */
        printf("waiting\n");
        fflush(stdout);
        while (access(argv[2], F_OK) != 0) {
            usleep(10000);
        }
        printf("through\n");
    } else if (strcmp(mode, "fail") == 0) { /* STATUS */
        printf("before\n");
        fprintf(stderr, "first\nthe \033[31mreason\n");
        return atoi(argv[2]);
    } else if (strcmp(mode, "crash") == 0) {
        printf("before\n");
        fflush(stdout);
        raise(SIGSEGV);
    } else if (strcmp(mode, "silent") == 0) {
        printf("before\n");
        fflush(stdout);
        sleep(600);
    } else if (strcmp(mode, "endless") == 0) {
        for (;;) {
            if (printf("again and again and again and again and again\n") < 0) {
                return 1;
            }
        }
    } else if (strcmp(mode, "overlong") == 0) {
        for (;;) {
            if (putchar('x') == EOF) {
                return 1;
            }
        }
    } else if (strcmp(mode, "stderr") == 0) { /* far more than a pipe holds */
        for (i = 0; i < 20000; ++i) {
            fprintf(stderr, "%d complaints\n", i);
        }
        printf("done\n");
        return 4;
    } else if (strcmp(mode, "noise") == 0) {
        for (i = 0; i < 4096; ++i) {
            putchar(i * 167 & 255);
        }
        printf("\nend\n");
    } else if (strcmp(mode, "escapes") == 0) {
        printf("\033]0;title\007\033[2Jtext\r\nno end");
    } else if (strcmp(mode, "pid") == 0) { /* a file is there until it ends */
        printf("%ld\n", (long)getpid());
        fflush(stdout);
        sleep(600);
    }
    return 0;
}
