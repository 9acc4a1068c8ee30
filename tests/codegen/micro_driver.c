/* Calls kernels with arguments from a block of test data, on a board, and compares what they write
 * with what they should. Each is called twice with other rubbish in the memory around and under
 * its arguments: a kernel that reads past a tensor differs between the calls, one that writes past
 * it is seen by the rubbish it destroys. Where a kernel promises an order, it is called once more
 * with its output as near to its first input as plans may put it.
 *
 * The block: the number of kernels; for each the number of its arguments and by how many bytes its
 * output must begin before its first input (-1: they may not overlap), and for each argument kind
 * and size, all int32, and the bytes, which begin at a multiple of 64. An output's are those that
 * are expected. */
#include "board.h"

#include <string.h>

__asm__(".section .bulk.work, \"a\"\n"
        ".balign 64\n"
        ".global work_data\n"
        "work_data:\n"
        ".incbin \"work.bin\"\n"
        ".previous\n");

extern const uint8_t work_data[];
int32_t call_kernel(int32_t kernel, void **arguments); /* generated */
int main(void);

enum { INPUT, CONSTANT, OUTPUT, SCRATCH };
enum { GUARD = 64, MOST = 12 };

static uint8_t memory[ARENA_BYTES] __attribute__((aligned(64)));

static int32_t number(const uint8_t *from) {
    int32_t value;
    memcpy(&value, from, sizeof value);
    return value;
}

static void report(int32_t kernel, const char *what, uint32_t count) {
    board_print_number((uint32_t)kernel);
    board_print(what);
    board_print_number(count);
    board_print("\n");
}

/* Kinds, sizes and data of a kernel's arguments; where the next kernel begins. */
typedef struct {
    int32_t count;
    int32_t distance;
    int32_t kind[MOST];
    size_t size[MOST];
    const uint8_t *data[MOST];
} arguments;

static const uint8_t *aligned(const uint8_t *at) {
    const size_t offset = (size_t)(at - work_data);
    return work_data + (offset + 63U) / 64U * 64U;
}

static const uint8_t *read(const uint8_t *at, arguments *found) {
    int32_t i;
    found->count = number(at);
    found->distance = number(at + 4);
    at += 8;
    for (i = 0; i < found->count; ++i) {
        found->kind[i] = number(at);
        found->size[i] = (size_t)number(at + 4);
        found->data[i] = aligned(at + 8);
        at = found->data[i] + (found->kind[i] == SCRATCH ? 0U : found->size[i]);
    }
    return at;
}

/* The output over the first input; what is around them is not looked at. */
static void overlapping(int32_t kernel, const arguments *given) {
    void *pointers[MOST];
    const uint8_t *wanted = NULL;
    uint8_t *output = memory + GUARD, *free_at;
    size_t size = 0, j;
    uint32_t wrong = 0;
    int32_t i, status;
    memset(memory, 0x3C, sizeof memory);
    free_at = output + given->distance + given->size[0];
    for (i = 0; i < given->count; ++i) {
        if (given->kind[i] == OUTPUT) {
            pointers[i] = output;
            wanted = given->data[i];
            size = given->size[i];
            free_at = output + size > free_at ? output + size : free_at;
        }
    }
    for (i = 0; i < given->count; ++i) {
        if (i == 0) {
            pointers[i] = output + given->distance;
            memcpy(pointers[i], given->data[i], given->size[i]);
        } else if (given->kind[i] == CONSTANT) {
            pointers[i] = (void *)(uintptr_t)given->data[i];
        } else if (given->kind[i] == SCRATCH) {
            free_at = memory + ((size_t)(free_at - memory) + 15U) / 16U * 16U;
            pointers[i] = free_at;
        }
    }
    status = call_kernel(kernel, pointers);
    for (j = 0; j < size; ++j) {
        wrong += output[j] != wanted[j];
    }
    if (status != 0 || wrong != 0U) {
        report(kernel, " written over its input differs in bytes: ", wrong);
    }
}

static void attempt(int32_t kernel, const arguments *given, uint8_t rubbish) {
    void *pointers[MOST];
    uint8_t *free_at = memory + GUARD;
    uint8_t *from;
    uint32_t wrong = 0, outside = 0;
    int32_t i, status;
    memset(memory, rubbish, sizeof memory);
    for (i = 0; i < given->count; ++i) {
        if (given->kind[i] == CONSTANT) {
            pointers[i] = (void *)(uintptr_t)given->data[i];
            continue;
        }
        pointers[i] = free_at;
        if (given->kind[i] == INPUT) {
            memcpy(free_at, given->data[i], given->size[i]);
        }
        free_at += (given->size[i] + 15U) / 16U * 16U + GUARD;
    }
    if (free_at > memory + sizeof memory) {
        report(kernel, " needs more memory: ", (uint32_t)(free_at - memory));
        return;
    }
    board_count_begin();
    status = call_kernel(kernel, pointers);
    board_count_end();
    from = memory;
    for (i = 0; i < given->count; ++i) {
        const uint8_t *to = pointers[i];
        size_t j;
        if (given->kind[i] == CONSTANT) {
            continue;
        }
        for (; from < to; ++from) {
            outside += *from != rubbish;
        }
        for (j = 0; j < given->size[i] && given->kind[i] != SCRATCH; ++j) {
            wrong += to[j] != given->data[i][j];
        }
        from += given->size[i];
    }
    for (; from < memory + sizeof memory; ++from) {
        outside += *from != rubbish;
    }
    if (status != 0) {
        report(kernel, " returns ", (uint32_t)status);
    }
    if (outside != 0U) {
        report(kernel, " writes bytes outside of its tensors: ", outside);
    }
    report(kernel, " differs in bytes: ", wrong);
}

int main(void) {
    const uint8_t *at = work_data + 4;
    const int32_t kernels = number(work_data);
    int32_t kernel;
    for (kernel = 0; kernel < kernels; ++kernel) {
        arguments given;
        at = read(at, &given);
        attempt(kernel, &given, 0x5AU);
        attempt(kernel, &given, 0xC3U);
        if (given.distance >= 0) {
            overlapping(kernel, &given);
        }
    }
    board_print("done\n");
    return 0;
}
