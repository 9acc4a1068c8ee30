/* Calls kernels with every argument between inaccessible pages: at the start of its pages, at
 * their end, and as little aligned as the kernels' interface allows. What may only be read lies
 * in read-only pages. The three results must be the same. */
#include "driver.h"

#include <string.h>

enum { ACTIVATION, CONSTANT, OUTPUT, SCRATCH };           /* kinds of argument */
enum { OK, FAULT, STATUS, OUTSIDE, DIFFERENT };           /* verdicts */
enum { AT_START, AT_END, SKEWED, PLACEMENTS };
enum { MAX_ARGUMENTS = 16 };

typedef struct {
    int32_t kind;
    uint32_t size, pages;
    const unsigned char *data;
    unsigned char *pages_at, *at;
} argument;

static uint32_t read_u32(const unsigned char **work) {
    uint32_t value;
    memcpy(&value, *work, sizeof value);
    *work += sizeof value;
    return value;
}

static void place(argument *a, int placement) {
    const uint32_t alignment = a->kind == CONSTANT ? 64 : 16;
    const uint32_t rounded = (a->size + alignment - 1) / alignment * alignment;
    a->pages = (rounded + alignment + PAGE - 1) / PAGE;
    a->pages_at = map_pages(a->pages);
    a->at = a->pages_at;
    if (placement == AT_END) a->at += a->pages * (size_t)PAGE - rounded;
    if (placement == SKEWED) a->at += alignment;
    /* what lies around differs, so that a result that depends on it differs as well */
    static const int around[PLACEMENTS] = {0xff, 0x7f, 0x21};
    memset(a->pages_at, around[placement], a->pages * (size_t)PAGE);
    if (a->kind == OUTPUT) memset(a->at, 77 + placement, a->size);
    else if (a->kind == SCRATCH)
        for (uint32_t i = 0; i < a->size; i++) a->at[i] = (unsigned char)(i * 167 + 13);
    else {
        memcpy(a->at, a->data, a->size);
        make_read_only(a->pages_at, a->pages);
    }
}

static int untouched(const argument *a) {
    const unsigned char first = a->at > a->pages_at ? a->pages_at[0] : a->at[a->size];
    const unsigned char *end = a->pages_at + a->pages * (size_t)PAGE;
    for (const unsigned char *p = a->pages_at; p < a->at; p++)
        if (*p != first) return 0;
    for (const unsigned char *p = a->at + a->size; p < end; p++)
        if (*p != first) return 0;
    return 1;
}

static void report(int32_t verdict, int32_t placement, int32_t which, int64_t detail) {
    const int32_t head[3] = {verdict, placement, which};
    put(head, sizeof head);
    put(&detail, sizeof detail);
}

/* One placement; 0 if anything was wrong, which is then reported. */
static int run_once(int32_t kernel, argument *arguments, int32_t count, int placement) {
    void *pointers[MAX_ARGUMENTS] = {0};
    for (int32_t i = 0; i < count; i++) {
        place(&arguments[i], placement);
        pointers[i] = arguments[i].at;
    }
    const outcome done = attempt(kernel, pointers);
    if (done.trapped) {
        for (int32_t i = 0; i < count; i++) {
            const argument *a = &arguments[i];
            const uint64_t low = (uint64_t)(uintptr_t)a->pages_at - PAGE;
            if (done.address < low || done.address >= low + (a->pages + 2ull) * PAGE) continue;
            report(FAULT, placement, i, (int64_t)(done.address - (uint64_t)(uintptr_t)a->at));
            return 0;
        }
        report(FAULT, placement, -1, done.trapped);
        return 0;
    }
    if (done.status) {
        report(STATUS, placement, -1, done.status);
        return 0;
    }
    for (int32_t i = 0; i < count; i++) {
        const int written = arguments[i].kind == OUTPUT || arguments[i].kind == SCRATCH;
        if (!written || untouched(&arguments[i])) continue;
        report(OUTSIDE, placement, i, 0);
        return 0;
    }
    return 1;
}

static const unsigned char *drive_one(int32_t kernel, const unsigned char *work) {
    argument arguments[MAX_ARGUMENTS], kept[MAX_ARGUMENTS];
    const int32_t count = (int32_t)read_u32(&work);
    int32_t output = 0;
    for (int32_t i = 0; i < count; i++) {
        argument *a = &arguments[i];
        a->kind = (int32_t)read_u32(&work);
        a->size = read_u32(&work);
        a->data = work;
        if (a->kind == ACTIVATION || a->kind == CONSTANT) work += a->size;
        if (a->kind == OUTPUT) output = i;
    }
    for (int placement = 0; placement < PLACEMENTS; placement++) {
        if (!run_once(kernel, arguments, count, placement)) goto end;
        if (placement == 0) memcpy(kept, arguments, sizeof kept);
        else if (memcmp(kept[output].at, arguments[output].at, kept[output].size) != 0) {
            report(DIFFERENT, placement, output, 0);
            goto end;
        }
    }
    report(OK, 0, output, 0);
    put(kept[output].at, kept[output].size);
end:
    unmap_all();
    return work;
}

void drive(const unsigned char *work) {
    const int32_t kernels = (int32_t)read_u32(&work);
    for (int32_t kernel = 0; kernel < kernels; kernel++) work = drive_one(kernel, work);
}
