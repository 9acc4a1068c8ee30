/* Start-up of Cortex-M machines: vector table, memory, FPU and vector unit, and what a fault says. */
#include "board.h"

extern uint32_t board_data_load[], board_data_start[], board_data_end[];
extern uint32_t board_bss_start[], board_bss_end[], board_stack_top[];
extern int main(void);

void board_reset(void);
void board_fault(void);
void board_report_fault(const uint32_t *frame);
/* SysTick's handler, for programs that use it. */
void board_tick(void);

__attribute__((section(".vectors"), used)) static const uintptr_t board_vectors[16] = {
    (uintptr_t)board_stack_top, (uintptr_t)board_reset,
    /* every exception that may come without being asked for */
    (uintptr_t)board_fault, (uintptr_t)board_fault, (uintptr_t)board_fault, (uintptr_t)board_fault,
    (uintptr_t)board_fault, (uintptr_t)board_fault, 0, 0, 0, (uintptr_t)board_fault,
    (uintptr_t)board_fault, 0, (uintptr_t)board_fault, (uintptr_t)board_tick,
};

#define SYSTEM(offset) (*(volatile uint32_t *)(0xE000ED00U + (offset)))

void board_reset(void) {
    const uint32_t *from = board_data_load;
    uint32_t *to;
#if defined(__ARM_FP) || defined(__ARM_FEATURE_MVE)
    SYSTEM(0x88U) |= 0xFU << 20; /* CPACR: both coprocessors of the FPU, for everybody */
#endif
#if defined(__ARM_ARCH_8_1M_MAIN__)
    SYSTEM(0x14U) |= 1U << 19; /* CCR.LOB: loops may keep their state in the loop cache */
#endif
    __asm__ volatile("dsb\n\tisb" ::: "memory");
    for (to = board_data_start; to < board_data_end; ++to) {
        *to = *from++;
    }
    for (to = board_bss_start; to < board_bss_end; ++to) {
        *to = 0U;
    }
    board_exit(main());
}

static void hex(const char *name, uint32_t value) {
    char text[9];
    int i;
    for (i = 0; i < 8; ++i) {
        text[i] = "0123456789abcdef"[(value >> (28 - 4 * i)) & 15U];
    }
    text[8] = '\0';
    board_print(name);
    board_print(text);
}

void board_report_fault(const uint32_t *frame) {
    uint32_t exception;
    __asm__ volatile("mrs %0, ipsr" : "=r"(exception));
    board_print("\nFAULT ");
    board_print_number(exception);
    hex(" pc=0x", frame[6]);
    hex(" lr=0x", frame[5]);
    hex(" cfsr=0x", SYSTEM(0x28U));
    hex(" address=0x", SYSTEM(0x38U));
    board_print("\n");
    board_exit(99);
}

__attribute__((naked)) void board_fault(void) {
    __asm__ volatile("mrs r0, msp\n\tbl board_report_fault");
}

__attribute__((weak)) void board_tick(void) {
    board_fault();
}

void board_exit(int status) {
    /* semihosting's SYS_EXIT_EXTENDED: the application ended, with this status */
    uint32_t reason[2];
    register uint32_t operation __asm__("r0") = 0x20U;
    register const uint32_t *argument __asm__("r1") = reason;
    reason[0] = 0x20026U;
    reason[1] = (uint32_t)status;
    __asm__ volatile("bkpt 0xAB" : "+r"(operation) : "r"(argument) : "memory");
    for (;;) {
    }
}
