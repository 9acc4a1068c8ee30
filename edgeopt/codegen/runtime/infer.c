/* infer: runs the network on raw tensors.
 *
 *     infer [--threads N] [INPUT [OUTPUT]]
 *
 * INPUT (default: standard input, also "-") holds any number of input sets back to back, each the
 * bytes of every input in order; OUTPUT (default: standard output) receives the outputs likewise.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "edgeopt_program.h"

#include <stdio.h>
#include <string.h>

static void check(int status) {
    if (status != 0) {
        edgeopt_fail(1, "the network reports:", edgeopt_the_program.status_text(status));
    }
}

static FILE *open_file(const char *path, const char *mode, FILE *standard) {
    FILE *file = standard;
    if (path != NULL && strcmp(path, "-") != 0) {
        file = fopen(path, mode);
    }
    if (file == NULL) {
        edgeopt_fail(2, "cannot open", path);
    }
    return file;
}

int main(int argc, char **argv) {
    const edgeopt_program *p = &edgeopt_the_program;
    int given = argc > 2 && strcmp(argv[1], "--threads") == 0 ? 2 : 0; /* words of options */
    const char *threads = given ? argv[2] : NULL;
    FILE *source = open_file(argc > given + 1 ? argv[given + 1] : NULL, "rb", stdin);
    FILE *sink = open_file(argc > given + 2 ? argv[given + 2] : NULL, "wb", stdout);
    void *arena = edgeopt_alloc(p->arena_bytes, p->arena_alignment);
    void **inputs = (void **)edgeopt_alloc(p->input_count * sizeof *inputs, sizeof *inputs);
    void **outputs = (void **)edgeopt_alloc(p->output_count * sizeof *outputs, sizeof *outputs);
    size_t i;
    if (argc > given + 3) {
        edgeopt_fail(2, "usage:", "infer [--threads N] [INPUT [OUTPUT]]");
    }
    for (i = 0; i < p->input_count; ++i) {
        inputs[i] = edgeopt_alloc(p->inputs[i].bytes, 64);
    }
    for (i = 0; i < p->output_count; ++i) {
        outputs[i] = edgeopt_alloc(p->outputs[i].bytes, 64);
    }
    check(p->init(arena, p->arena_bytes));
    edgeopt_start_threads(p, threads);
    for (;;) {
        for (i = 0; i < p->input_count; ++i) {
            size_t got = fread(inputs[i], 1, p->inputs[i].bytes, source);
            if (got == 0 && i == 0 && feof(source)) {
                if (fflush(sink) != 0 || ferror(sink)) {
                    edgeopt_fail(1, "cannot write the outputs", "");
                }
                return 0;
            }
            if (got != p->inputs[i].bytes) {
                edgeopt_fail(2, "the input ends in the middle of tensor", p->inputs[i].name);
            }
        }
        check(p->run((const void *const *)inputs, outputs));
        for (i = 0; i < p->output_count; ++i) {
            if (fwrite(outputs[i], 1, p->outputs[i].bytes, sink) != p->outputs[i].bytes) {
                edgeopt_fail(1, "cannot write the outputs", "");
            }
        }
    }
}
