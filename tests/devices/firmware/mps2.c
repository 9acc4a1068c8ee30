/* Start and UART of mps2-an386 (Arm Application Note AN386; CMSDK UART0 at 0x40004000). */
#include "board.h"

#include <stddef.h>

#define UART_DATA (*(volatile uint32_t *)0x40004000u)
#define UART_STATE (*(volatile uint32_t *)0x40004004u) /* bit 0: cannot send; 1: has received */
#define UART_CTRL (*(volatile uint32_t *)0x40004008u)
#define UART_DIVIDER (*(volatile uint32_t *)0x40004010u)

#define UART1_DATA (*(volatile uint32_t *)0x40005000u)
#define UART1_CTRL (*(volatile uint32_t *)0x40005008u)
#define UART1_DIVIDER (*(volatile uint32_t *)0x40005010u)

void stack(void); /* an address, from the linker */
void reset(void);
void stop(void);
void *memcpy(void *to, const void *from, size_t count);
void *memset(void *to, int value, size_t count);

__attribute__((section(".vectors"), used)) static void (*const vectors[16])(void) = {
    stack, reset, stop, stop, stop, stop, stop};

void stop(void) {
    for (;;) {
    }
}

void reset(void) {
    UART_DIVIDER = 16;
    UART_CTRL = 3;
    UART1_DIVIDER = 16;
    UART1_CTRL = 1;
    UART1_DATA = 'o'; /* tests wait for this: the first UART is on */
    UART1_DATA = 'n';
    UART1_DATA = '\n';
    board_main();
    stop();
}

int board_get(void *context) {
    (void)context;
    while ((UART_STATE & 2u) == 0u) {
    }
    return (int)(UART_DATA & 255u);
}

void board_put(void *context, unsigned char byte) {
    (void)context;
    while ((UART_STATE & 1u) != 0u) {
    }
    UART_DATA = byte;
}
