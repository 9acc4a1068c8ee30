/* self_test: runs the network on its embedded test vectors. Exits 0 when the outputs agree.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "edgeopt_program.h"

#include <stdio.h>

int main(void) {
    const edgeopt_program *p = &edgeopt_the_program;
    void *arena = edgeopt_alloc(p->arena_bytes, p->arena_alignment);
    int status = p->init(arena, p->arena_bytes);
    if (status == 0 && p->self_test == NULL) {
        (void)printf("%s: no embedded test vectors\n", p->name);
        return 0;
    }
    if (status == 0) {
        edgeopt_start_threads(p, NULL);
        status = p->self_test();
    }
    (void)printf("%s: %s\n", p->name, status == 0 ? "self-test passed" : p->status_text(status));
    return status == 0 ? 0 : 1;
}
