/* A QEMU plugin that counts the guest instructions a program executes, exactly.
 *
 *     qemu-aarch64 -plugin libinsncount.so,out=FILE[,blocks=on][,begin=0xA,end=0xB] PROGRAM
 *
 * FILE gets a line "mark N" with the instructions so far whenever a program of Linux asks for its
 * priority (the system call getpriority), and whenever the function at address begin or end runs:
 * with its own instructions if at begin, without if at end, so that the difference is what lies
 * between the calls. Both functions must be single blocks. At the end there is "total N". With
 * blocks=on a line "address instructions" follows for every translated block that ran, so that
 * counts can be assigned to functions.
 *
 * Debian ships QEMU with plugins but without their header: what is used is declared here
 * (interface version 1, QEMU 4.2 and later). */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_info_t;
enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64 };
enum qemu_plugin_cb_flags { QEMU_PLUGIN_CB_NO_REGS };

extern void qemu_plugin_register_vcpu_tb_trans_cb(
    qemu_plugin_id_t id, void (*callback)(qemu_plugin_id_t, struct qemu_plugin_tb *));
extern void qemu_plugin_register_vcpu_tb_exec_inline(
    struct qemu_plugin_tb *block, enum qemu_plugin_op op, void *counter, uint64_t step);
extern void qemu_plugin_register_vcpu_tb_exec_cb(
    struct qemu_plugin_tb *block, void (*callback)(unsigned, void *), enum qemu_plugin_cb_flags use,
    void *data);
extern void qemu_plugin_register_vcpu_syscall_cb(
    qemu_plugin_id_t id,
    void (*callback)(qemu_plugin_id_t, unsigned, int64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                     uint64_t, uint64_t, uint64_t, uint64_t));
extern void qemu_plugin_register_atexit_cb(
    qemu_plugin_id_t id, void (*callback)(qemu_plugin_id_t, void *), void *data);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
extern uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *block);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

/* getpriority, as 64-bit Arm and RISC-V number it */
#define MARK 141

/* One translated block; QEMU may translate an address again, which makes another. */
struct block {
    uint64_t address;
    uint64_t size; /* instructions */
    uint64_t executions;
    struct block *next;
};

static struct block *blocks;
static FILE *out;
static bool list_blocks;
static uint64_t begin = UINT64_MAX, end = UINT64_MAX;

static uint64_t total(void) {
    const struct block *block;
    uint64_t sum = 0;
    for (block = blocks; block != NULL; block = block->next) {
        sum += block->executions * block->size;
    }
    return sum;
}

/* What is called as a block starts: whether before or after it is added to its counter is QEMU's
 * affair, so marked blocks have no such counter and are added here. */
static void marked(unsigned cpu, void *data) {
    struct block *block = data;
    (void)cpu;
    if (block->address == end) {
        fprintf(out, "mark %llu\n", (unsigned long long)total());
    }
    ++block->executions;
    if (block->address == begin) {
        fprintf(out, "mark %llu\n", (unsigned long long)total());
    }
}

/* QEMU holds its translation lock here, so the list needs none. */
static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb) {
    struct block *block = calloc(1, sizeof *block);
    (void)id;
    if (block == NULL) {
        abort();
    }
    block->address = qemu_plugin_tb_vaddr(tb);
    block->size = qemu_plugin_tb_n_insns(tb);
    block->next = blocks;
    blocks = block;
    if (block->address == begin || block->address == end) {
        qemu_plugin_register_vcpu_tb_exec_cb(tb, marked, QEMU_PLUGIN_CB_NO_REGS, block);
    } else {
        qemu_plugin_register_vcpu_tb_exec_inline(
            tb, QEMU_PLUGIN_INLINE_ADD_U64, &block->executions, 1);
    }
}

static void called(qemu_plugin_id_t id, unsigned cpu, int64_t number, uint64_t a, uint64_t b,
                   uint64_t c, uint64_t d, uint64_t e, uint64_t f, uint64_t g, uint64_t h) {
    (void)id, (void)cpu, (void)a, (void)b, (void)c, (void)d, (void)e, (void)f, (void)g, (void)h;
    if (number == MARK) {
        fprintf(out, "mark %llu\n", (unsigned long long)total());
    }
}

static void finished(qemu_plugin_id_t id, void *data) {
    const struct block *block;
    (void)id;
    (void)data;
    fprintf(out, "total %llu\n", (unsigned long long)total());
    for (block = blocks; list_blocks && block != NULL; block = block->next) {
        if (block->executions != 0) {
            fprintf(out, "%llx %llu\n", (unsigned long long)block->address,
                    (unsigned long long)(block->executions * block->size));
        }
    }
    fclose(out);
}

__attribute__((visibility("default"))) int qemu_plugin_install(
    qemu_plugin_id_t id, const struct qemu_info_t *info, int argc, char **argv) {
    int i;
    (void)info;
    for (i = 0; i < argc; ++i) {
        if (strncmp(argv[i], "out=", 4) == 0) {
            out = fopen(argv[i] + 4, "w");
        } else if (strcmp(argv[i], "blocks=on") == 0 || strcmp(argv[i], "blocks=true") == 0) {
            list_blocks = true;
        } else if (strncmp(argv[i], "begin=", 6) == 0) {
            begin = strtoull(argv[i] + 6, NULL, 0);
        } else if (strncmp(argv[i], "end=", 4) == 0) {
            end = strtoull(argv[i] + 4, NULL, 0);
        } else {
            fprintf(stderr, "insncount: unknown argument %s\n", argv[i]);
            return -1;
        }
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    qemu_plugin_register_atexit_cb(id, finished, NULL);
    return out == NULL ? -1 : 0;
}
