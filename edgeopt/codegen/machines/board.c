/* The part of board.h that all machines share; the UARTs are those that QEMU's machines have. */
#include "board.h"

extern uint32_t board_stack_limit[], board_stack_top[];

#define REGISTER(address) (*(volatile uint32_t *)(uintptr_t)(address))
#define BYTE_REGISTER(address) (*(volatile uint8_t *)(uintptr_t)(address))

#if defined(BOARD_UART_CMSDK) /* Arm's CMSDK APB UART: data, state, control, ..., divider */
static void uart_open(void) {
    REGISTER(BOARD_UART_CMSDK + 16U) = 16U; /* the smallest divider it takes */
    REGISTER(BOARD_UART_CMSDK + 8U) = 3U;   /* transmit and receive */
}
static void uart_put(uint8_t byte) {
    while ((REGISTER(BOARD_UART_CMSDK + 4U) & 1U) != 0U) {
    }
    REGISTER(BOARD_UART_CMSDK) = byte;
}
int board_read(void) {
    return (REGISTER(BOARD_UART_CMSDK + 4U) & 2U) != 0U ? (int)(REGISTER(BOARD_UART_CMSDK) & 255U) : -1;
}
#elif defined(BOARD_UART_16550) /* one byte a register */
static void uart_open(void) {
}
static void uart_put(uint8_t byte) {
    while ((BYTE_REGISTER(BOARD_UART_16550 + 5U) & 0x20U) == 0U) {
    }
    BYTE_REGISTER(BOARD_UART_16550) = byte;
}
int board_read(void) {
    return (BYTE_REGISTER(BOARD_UART_16550 + 5U) & 1U) != 0U ? (int)BYTE_REGISTER(BOARD_UART_16550) : -1;
}
#elif defined(BOARD_UART_NRF) /* Nordic's, as the nRF51 has it */
static void uart_open(void) {
    REGISTER(BOARD_UART_NRF + 0x500U) = 4U; /* enable */
    REGISTER(BOARD_UART_NRF + 0x008U) = 1U; /* start transmitting */
    REGISTER(BOARD_UART_NRF + 0x000U) = 1U; /* start receiving */
}
static void uart_put(uint8_t byte) {
    REGISTER(BOARD_UART_NRF + 0x11CU) = 0U; /* ready again when it has been sent */
    REGISTER(BOARD_UART_NRF + 0x51CU) = byte;
    while (REGISTER(BOARD_UART_NRF + 0x11CU) == 0U) {
    }
}
int board_read(void) {
    if (REGISTER(BOARD_UART_NRF + 0x108U) == 0U) {
        return -1;
    }
    REGISTER(BOARD_UART_NRF + 0x108U) = 0U;
    return (int)(REGISTER(BOARD_UART_NRF + 0x518U) & 255U);
}
#else
#error "which UART has this machine?"
#endif

void board_write(const char *text, size_t count) {
    static uint8_t is_open;
    size_t i;
    if (is_open == 0U) {
        uart_open();
        is_open = 1U;
    }
    for (i = 0; i < count; ++i) {
        uart_put((uint8_t)text[i]);
    }
}

void board_print(const char *text) {
    size_t count = 0;
    while (text[count] != '\0') {
        ++count;
    }
    board_write(text, count);
}

void board_print_number(uint32_t number) {
    char digits[10];
    size_t first = sizeof digits;
    do {
        digits[--first] = (char)('0' + (int)(number % 10U));
        number /= 10U;
    } while (number != 0U);
    board_write(digits + first, sizeof digits - first);
}

#define PAINT 0xA5C3B17EU

void board_stack_paint(void) {
    uint32_t here;
    volatile uint32_t *word;
    for (word = board_stack_limit; word + 16 < &here; ++word) {
        *word = PAINT;
    }
}

uint32_t board_stack_used(void) {
    const volatile uint32_t *word = board_stack_limit;
    while (word < board_stack_top && *word == PAINT) {
        ++word;
    }
    return (uint32_t)((const volatile uint8_t *)board_stack_top - (const volatile uint8_t *)word);
}

__attribute__((noinline)) void board_count_begin(void) {
    __asm__ volatile("nop");
}

__attribute__((noinline)) void board_count_end(void) {
    __asm__ volatile("nop");
}
