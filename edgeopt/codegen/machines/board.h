/* What a program without an operating system needs of the machine it runs on: text in and out over
 * the first UART, an end, and a look at its own stack. The start-up code calls main and hands what
 * it returns to board_exit. */
#ifndef EDGEOPT_BOARD_H
#define EDGEOPT_BOARD_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Writes bytes; a line ends with '\n'. */
void board_write(const char *text, size_t count);
/* The same for a text, and for a number in decimal. */
void board_print(const char *text);
void board_print_number(uint32_t number);
/* The next byte that came in, or -1 if there is none yet. */
int board_read(void);
/* Ends the emulator, whose exit status this becomes; on a board without a debugger it stops. */
void board_exit(int status);

/* Fills the unused stack with a pattern; board_stack_used says how deep it was used since. */
void board_stack_paint(void);
uint32_t board_stack_used(void);

/* Instructions between these two are counted, with the one that calls the second. They may not
 * nest. */
void board_count_begin(void);
void board_count_end(void);

#ifdef __cplusplus
}
#endif
#endif
