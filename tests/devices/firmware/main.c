/* Test firmware: answers the line protocol, and misbehaves where a request asks it to. */
#include "board.h"
#include "edgeopt_line.h"

#include <string.h>

typedef struct {
    uint32_t garble_out; /* lines to send with a wrong bit */
    uint32_t garble_in;  /* lines to receive with a wrong bit */
    int flip_out, flip_in;
} wire;

static int get(void *context) {
    wire *w = (wire *)context;
    int byte = board_get(NULL);
    if (w->garble_in > 0 && w->flip_in && byte != '\n' && byte >= 0) {
        w->flip_in = 0;
        --w->garble_in;
        return byte ^ 4;
    }
    if (byte == '\n') {
        w->flip_in = 1;
    }
    return byte;
}

static void put(void *context, unsigned char byte) {
    wire *w = (wire *)context;
    if (w->garble_out > 0 && w->flip_out && byte != '\n') {
        w->flip_out = 0;
        --w->garble_out;
        byte ^= 4;
    }
    if (byte == '\n') {
        w->flip_out = 1;
    }
    board_put(NULL, byte);
}

static void raw(const char *text) {
    for (; *text != '\0'; ++text) {
        board_put(NULL, (unsigned char)*text);
    }
}

static edgeopt_line_status count(edgeopt_line *line, uint32_t lines) {
    uint32_t i;
    for (i = 0; i < lines; ++i) {
        edgeopt_line_status status;
        edgeopt_line_begin(line);
        edgeopt_line_text(line, "{\"line\": ");
        edgeopt_line_unsigned(line, i);
        edgeopt_line_text(line, "}");
        status = edgeopt_line_finish(line);
        if (status != EDGEOPT_LINE_OK) {
            return status;
        }
    }
    return edgeopt_line_done(line);
}

void board_main(void) {
    edgeopt_line line;
    wire w = {0, 0, 1, 1};
    char *request;
    edgeopt_line_init(&line, get, put, &w);
    raw("boot loader v1.0\r\n\033[0m\xff\xfe ready *0000\r\n");
    while (edgeopt_line_receive(&line, &request) == EDGEOPT_LINE_OK) {
        const char *verb = edgeopt_line_word(&request);
        uint32_t number = 0;
        int bad = edgeopt_line_number(edgeopt_line_word(&request), 1000000, &number);
        if (strcmp(verb, "info") == 0) {
            (void)edgeopt_line_send(&line, "{\"bench\": 1, \"kernels\": 0}");
            (void)edgeopt_line_done(&line);
        } else if (strcmp(verb, "lines") == 0 && !bad) {
            (void)count(&line, number);
        } else if (strcmp(verb, "echo") == 0) {
            const char *word;
            edgeopt_line_begin(&line);
            edgeopt_line_text(&line, "{\"words\": [");
            for (word = edgeopt_line_word(&request); *word != '\0';
                 word = edgeopt_line_word(&request)) {
                edgeopt_line_string(&line, word);
                edgeopt_line_text(&line, *request != '\0' ? ", " : "");
            }
            edgeopt_line_text(&line, "]}");
            if (edgeopt_line_finish(&line) == EDGEOPT_LINE_TOO_LONG) {
                (void)edgeopt_line_error(&line, "the words do not fit a line");
            } else {
                (void)edgeopt_line_done(&line);
            }
        } else if (strcmp(verb, "garble-out") == 0 && !bad) {
            w.garble_out = number;
            w.flip_out = 1;
            (void)count(&line, 3);
            w.garble_out = 0;
        } else if (strcmp(verb, "garble-in") == 0 && !bad) {
            w.garble_in = number;
            w.flip_in = 1;
            (void)count(&line, 3);
            w.garble_in = 0;
        } else if (strcmp(verb, "deaf") == 0 && !bad) { /* the next requests are garbled */
            (void)edgeopt_line_done(&line);
            w.garble_in = number;
        } else if (strcmp(verb, "same") == 0) {
            (void)edgeopt_line_send(&line, "{\"same\": true}");
            (void)edgeopt_line_send(&line, "{\"same\": true}");
            (void)edgeopt_line_done(&line);
        } else if (strcmp(verb, "text") == 0) {
            (void)edgeopt_line_send(&line, "not JSON");
        } else if (strcmp(verb, "mumble") == 0) {
            raw("a stray print\n");
            (void)count(&line, 2);
        } else if (strcmp(verb, "babble") == 0) {
            for (;;) {
                raw("babble ");
            }
        } else if (strcmp(verb, "hang") == 0) {
            (void)edgeopt_line_send(&line, "{\"before\": true}");
            for (;;) {
            }
        } else {
            (void)edgeopt_line_error(&line, "unknown \"request\"");
        }
    }
}
