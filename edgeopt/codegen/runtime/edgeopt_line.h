/* Lines with checksums on a serial line: how a host and firmware talk.
 *
 * A line is `<payload> *<CRC>\n`: printable ASCII, the CRC-16/CCITT-FALSE of the payload in four
 * hexadecimal digits, at most 512 bytes in all. The host sends a request; the firmware
 * acknowledges it with `ok *<CRC of the request>`, answers with one JSON object a line, and ends
 * with {"done": true} or {"error": "..."}. Every second line of an answer has `+` in place of `*`,
 * and the complement of the CRC, so that a line sent again is not taken for a new one. The host acknowledges each line by its
 * ending, `ok *<CRC>` or `ok +<CRC>`, and the firmware sends the next one only then: nothing is
 * lost on a UART without a buffer, and nothing disturbs a measurement. Who receives a garbled line
 * asks for it with `again`, twice. Empty lines mean nothing.
 *
 *     edgeopt_line line;
 *     char *request;
 *     edgeopt_line_init(&line, uart_get, uart_put, NULL);
 *     while (edgeopt_line_receive(&line, &request) == EDGEOPT_LINE_OK) {
 *         const char *verb = edgeopt_line_word(&request);
 *         if (strcmp(verb, "info") == 0) {
 *             (void)edgeopt_line_send(&line, "{\"bench\": 1}");
 *             (void)edgeopt_line_done(&line);
 *         } else {
 *             (void)edgeopt_line_error(&line, "unknown request");
 *         }
 *     }
 *
 * No heap, no globals; about 1100 bytes of RAM, which the caller provides.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef EDGEOPT_LINE_H
#define EDGEOPT_LINE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define EDGEOPT_LINE_MAX 512u        /* bytes of a line, with its end */
#define EDGEOPT_LINE_PAYLOAD_MAX 505u /* without " *1A2B\n" */

typedef enum edgeopt_line_status {
    EDGEOPT_LINE_OK = 0,
    EDGEOPT_LINE_END = 1,       /* `get` says that nothing will come any more */
    EDGEOPT_LINE_ABANDONED = 2, /* the host sent a new request: go back to edgeopt_line_receive */
    EDGEOPT_LINE_GARBLED = 3,   /* no acknowledgement that can be read: go back, too */
    EDGEOPT_LINE_TOO_LONG = 4   /* the payload does not fit a line; nothing was sent */
} edgeopt_line_status;

/* Waits for a byte: 0 to 255, or negative if none will come any more. */
typedef int (*edgeopt_line_get)(void *context);
/* Sends a byte, waiting until there is room. */
typedef void (*edgeopt_line_put)(void *context, unsigned char byte);

typedef struct edgeopt_line {
    edgeopt_line_get get;
    edgeopt_line_put put;
    void *context;
    size_t length;       /* of the payload being written */
    int too_long;        /* it does not fit */
    int greeted;         /* an empty line was sent: somebody listens */
    char mark;           /* of the next line */
    int pending;         /* `in` holds a request that came in place of an acknowledgement */
    char in[EDGEOPT_LINE_MAX + 1u];
    char out[EDGEOPT_LINE_MAX + 1u];
} edgeopt_line;

void edgeopt_line_init(edgeopt_line *line, edgeopt_line_get get, edgeopt_line_put put,
                       void *context);

/* Waits for a request and acknowledges it. The text is valid until the next call that takes the
 * line; it may be changed (by edgeopt_line_word). */
edgeopt_line_status edgeopt_line_receive(edgeopt_line *line, char **request);

/* Writes a payload piece by piece. */
void edgeopt_line_begin(edgeopt_line *line);
void edgeopt_line_text(edgeopt_line *line, const char *text);     /* as it is */
void edgeopt_line_string(edgeopt_line *line, const char *text);   /* as a JSON string */
void edgeopt_line_unsigned(edgeopt_line *line, uint64_t value);   /* in decimal */
/* Sends the payload and waits until the host has it. */
edgeopt_line_status edgeopt_line_finish(edgeopt_line *line);

/* Whole payloads. */
edgeopt_line_status edgeopt_line_send(edgeopt_line *line, const char *payload);
edgeopt_line_status edgeopt_line_done(edgeopt_line *line);
edgeopt_line_status edgeopt_line_error(edgeopt_line *line, const char *reason);

/* Takes the next word of a request ("" at its end); `*rest` moves behind it. */
const char *edgeopt_line_word(char **rest);
/* Reads a decimal number of at most `limit`; 0 if the word is one, else -1. */
int edgeopt_line_number(const char *word, uint32_t limit, uint32_t *value);

uint16_t edgeopt_line_crc(const char *payload, size_t length);

#ifdef __cplusplus
}
#endif

#endif
