/* Lines with checksums on a serial line; see the header.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "edgeopt_line.h"

#include <string.h>

#define MAX_AGAIN 2 /* times that one line is asked for again */
#define CHECK_BYTES 6u /* " *1A2B" */

enum { LINE_GOOD = 0, LINE_BAD = 1, LINE_NONE = 2 };

uint16_t edgeopt_line_crc(const char *payload, size_t length) {
    uint32_t crc = 0xFFFFu;
    size_t i;
    int bit;
    for (i = 0; i < length; ++i) {
        crc ^= (uint32_t)(unsigned char)payload[i] << 8;
        for (bit = 0; bit < 8; ++bit) {
            crc = (crc & 0x8000u) != 0u ? (crc << 1) ^ 0x1021u : crc << 1;
        }
        crc &= 0xFFFFu;
    }
    return (uint16_t)crc;
}

static void write_hex(char *digits, uint16_t value) {
    static const char hex[] = "0123456789ABCDEF";
    digits[0] = hex[(value >> 12) & 15];
    digits[1] = hex[(value >> 8) & 15];
    digits[2] = hex[(value >> 4) & 15];
    digits[3] = hex[value & 15];
}

/* The value of four hexadecimal digits, or -1. */
static int32_t read_hex(const char *digits) {
    int32_t value = 0;
    int i;
    for (i = 0; i < 4; ++i) {
        char c = digits[i];
        int32_t digit;
        if (c >= '0' && c <= '9') {
            digit = c - '0';
        } else if (c >= 'A' && c <= 'F') {
            digit = c - 'A' + 10;
        } else {
            return -1;
        }
        value = value * 16 + digit;
    }
    return value;
}

/* The checksum of a line: of `+` lines the complement, so that no wrong bit turns one into the
 * other. */
static uint16_t check_of(const char *payload, size_t length, char mark) {
    uint32_t crc = edgeopt_line_crc(payload, length);
    return (uint16_t)(mark == '+' ? crc ^ 0xFFFFu : crc);
}

static void put_line(const edgeopt_line *line, const char *payload, size_t length, char mark) {
    char check[] = " *0000\n";
    size_t i;
    check[1] = mark;
    write_hex(check + 2, check_of(payload, length, mark));
    for (i = 0; i < length; ++i) {
        line->put(line->context, (unsigned char)payload[i]);
    }
    for (i = 0; i < sizeof check - 1u; ++i) {
        line->put(line->context, (unsigned char)check[i]);
    }
}

/* Reads the next line that is not empty into `in`; good ones end where their checksum began. */
static int read_line(edgeopt_line *line) {
    size_t length = 0, i;
    int good = 1;
    for (;;) {
        int byte = line->get(line->context);
        if (byte < 0) {
            return LINE_NONE;
        }
        if (byte == '\n') {
            if (length != 0 || !good) {
                break;
            }
        } else if (byte != '\r') {
            good = good && byte >= ' ' && byte <= '~' && length < EDGEOPT_LINE_MAX;
            if (length < EDGEOPT_LINE_MAX) {
                line->in[length++] = (char)byte;
            }
        }
    }
    if (!good || length <= CHECK_BYTES) {
        return LINE_BAD;
    }
    i = length - CHECK_BYTES;
    if (line->in[i] != ' ' || line->in[i + 1] != '*' ||
        read_hex(&line->in[i + 2]) != (int32_t)edgeopt_line_crc(line->in, i)) {
        return LINE_BAD;
    }
    line->in[i] = '\0';
    return LINE_GOOD;
}

/* Whether the line read is `ok` with the ending of the line sent. */
static int acknowledges(const edgeopt_line *line) {
    return strlen(line->in) == 8u && line->in[3] == line->mark &&
           read_hex(line->in + 4) == (int32_t)check_of(line->out, line->length, line->mark);
}

void edgeopt_line_init(edgeopt_line *line, edgeopt_line_get get, edgeopt_line_put put,
                       void *context) {
    line->get = get;
    line->put = put;
    line->context = context;
    line->length = 0;
    line->too_long = 0;
    line->greeted = 0;
    line->mark = '*';
    line->pending = 0;
}

edgeopt_line_status edgeopt_line_receive(edgeopt_line *line, char **request) {
    char answer[] = "ok *0000";
    int again = 0;
    if (!line->greeted) {
        line->greeted = 1;
        line->put(line->context, '\n');
    }
    while (!line->pending) {
        int kind = read_line(line);
        if (kind == LINE_NONE) {
            return EDGEOPT_LINE_END;
        }
        if (kind == LINE_BAD) {
            if (again < MAX_AGAIN) { /* then wait in silence: the host will try anew */
                put_line(line, "again", 5, '*');
                ++again;
            }
        } else if (strncmp(line->in, "ok ", 3) == 0 || strcmp(line->in, "again") == 0) {
            again = 0; /* late words about an answer that is over */
        } else {
            break;
        }
    }
    line->pending = 0;
    line->mark = '*';
    write_hex(answer + 4, edgeopt_line_crc(line->in, strlen(line->in)));
    put_line(line, answer, 8, '*');
    *request = line->in;
    return EDGEOPT_LINE_OK;
}

static void append(edgeopt_line *line, char c) {
    if (line->length < EDGEOPT_LINE_PAYLOAD_MAX) {
        line->out[line->length++] = c >= ' ' && c <= '~' ? c : '?';
    } else {
        line->too_long = 1;
    }
}

void edgeopt_line_begin(edgeopt_line *line) {
    line->length = 0;
    line->too_long = 0;
}

void edgeopt_line_text(edgeopt_line *line, const char *text) {
    for (; *text != '\0'; ++text) {
        append(line, *text);
    }
}

void edgeopt_line_string(edgeopt_line *line, const char *text) {
    append(line, '"');
    for (; *text != '\0'; ++text) {
        if (*text == '"' || *text == '\\') {
            append(line, '\\');
        }
        append(line, *text);
    }
    append(line, '"');
}

void edgeopt_line_unsigned(edgeopt_line *line, uint64_t value) {
    char digits[20];
    size_t count = 0;
    do {
        digits[count++] = (char)('0' + (int)(value % 10u));
        value /= 10u;
    } while (value != 0u);
    while (count > 0) {
        append(line, digits[--count]);
    }
}

edgeopt_line_status edgeopt_line_finish(edgeopt_line *line) {
    int again = 0;
    if (line->too_long || line->length == 0) {
        return EDGEOPT_LINE_TOO_LONG;
    }
    if (line->pending) {
        return EDGEOPT_LINE_ABANDONED;
    }
    put_line(line, line->out, line->length, line->mark);
    for (;;) {
        int kind = read_line(line);
        if (kind == LINE_NONE) {
            return EDGEOPT_LINE_END;
        }
        if (kind == LINE_BAD) {
            if (again == MAX_AGAIN) {
                return EDGEOPT_LINE_GARBLED;
            }
            put_line(line, "again", 5, '*');
            ++again;
        } else if (strcmp(line->in, "again") == 0) {
            put_line(line, line->out, line->length, line->mark);
        } else if (strncmp(line->in, "ok ", 3) != 0) {
            line->pending = 1;
            return EDGEOPT_LINE_ABANDONED;
        } else if (acknowledges(line)) {
            line->mark = line->mark == '*' ? '+' : '*';
            return EDGEOPT_LINE_OK;
        } /* else it acknowledges an earlier line a second time */
    }
}

edgeopt_line_status edgeopt_line_send(edgeopt_line *line, const char *payload) {
    edgeopt_line_begin(line);
    edgeopt_line_text(line, payload);
    return edgeopt_line_finish(line);
}

edgeopt_line_status edgeopt_line_done(edgeopt_line *line) {
    return edgeopt_line_send(line, "{\"done\": true}");
}

edgeopt_line_status edgeopt_line_error(edgeopt_line *line, const char *reason) {
    edgeopt_line_begin(line);
    edgeopt_line_text(line, "{\"error\": ");
    edgeopt_line_string(line, reason);
    edgeopt_line_text(line, "}");
    return edgeopt_line_finish(line);
}

const char *edgeopt_line_word(char **rest) {
    char *word = *rest, *end;
    while (*word == ' ') {
        ++word;
    }
    end = word;
    while (*end != ' ' && *end != '\0') {
        ++end;
    }
    if (*end == ' ') {
        *end++ = '\0';
    }
    *rest = end;
    return word;
}

int edgeopt_line_number(const char *word, uint32_t limit, uint32_t *value) {
    uint32_t number = 0;
    if (*word == '\0') {
        return -1;
    }
    for (; *word != '\0'; ++word) {
        uint32_t digit = (uint32_t)(unsigned char)*word - (uint32_t)'0';
        if (digit > 9u || digit > limit || number > (limit - digit) / 10u) {
            return -1;
        }
        number = number * 10u + digit;
    }
    *value = number;
    return 0;
}
