/* The test firmware as a program of this machine: its UART is standard input and output. */
#include "board.h"

#include <stdio.h>
#include <unistd.h>

int board_get(void *context) {
    unsigned char byte;
    (void)context;
    return read(STDIN_FILENO, &byte, 1) == 1 ? byte : -1;
}

void board_put(void *context, unsigned char byte) {
    (void)context;
    if (write(STDOUT_FILENO, &byte, 1) != 1) {
        _exit(1);
    }
}

int main(void) {
    board_main();
    return 0;
}
