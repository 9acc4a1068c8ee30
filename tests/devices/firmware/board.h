/* What the test firmware needs of a board. */
#ifndef BOARD_H
#define BOARD_H

#include <stdint.h>

int board_get(void *context);
void board_put(void *context, unsigned char byte);
void board_main(void);

#endif
