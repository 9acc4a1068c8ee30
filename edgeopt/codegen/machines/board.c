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
#elif defined(BOARD_UART_STM32) /* ST's USART from 2012 on, which the board's own start-up has set up */
static void uart_open(void) {
}
static void uart_put(uint8_t byte) {
    while ((REGISTER(BOARD_UART_STM32 + 0x1CU) & 0x80U) == 0U) { /* ISR.TXE */
    }
    REGISTER(BOARD_UART_STM32 + 0x28U) = byte;
}
int board_read(void) {
    if ((REGISTER(BOARD_UART_STM32 + 0x1CU) & 0x20U) == 0U) { /* ISR.RXNE */
        return -1;
    }
    return (int)(REGISTER(BOARD_UART_STM32 + 0x24U) & 255U);
}
#elif defined(BOARD_UART_SEMIHOSTING) /* a debugger's console; without a debugger it faults */
static void uart_open(void) {
}
static intptr_t ask_debugger(uint32_t operation, const void *argument) {
#if defined(__riscv)
    register intptr_t a0 __asm__("a0") = (intptr_t)operation;
    register const void *a1 __asm__("a1") = argument;
    __asm__ volatile(".option push\n\t.option norvc\n\t.balign 16\n\tslli zero, zero, 0x1f\n\tebreak\n\t"
                     "srai zero, zero, 7\n\t.option pop" : "+r"(a0) : "r"(a1) : "memory");
    return a0;
#else
    register intptr_t r0 __asm__("r0") = (intptr_t)operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
#endif
}
static void uart_put(uint8_t byte) {
    (void)ask_debugger(3U, &byte); /* SYS_WRITEC */
}
int board_read(void) {
    return (int)ask_debugger(7U, NULL); /* SYS_READC, which waits */
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
