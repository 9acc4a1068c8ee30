/* Runs programs for a TVM RPC session, which by itself can only load libraries and call functions.
 *
 * Compiled for the board, uploaded into the session's folder and loaded there. One program at a
 * time: its arguments are in the file `edgeopt.argv` (each ended by NUL) beside this library; each
 * poll puts what came from it into `edgeopt.out` and `edgeopt.err`.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* dladdr, prctl */
#endif
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_ARGV_BYTES (1u << 20)
#define MAX_ARGS 4096
#define CHUNK (1u << 16)

/* As tvm-ffi's c_api.h lays out a value on its stack. */
typedef struct {
    int32_t type_index;
    uint32_t padding;
    int64_t integer;
} value;

#define TYPE_INT 1
#define EXPORT __attribute__((visibility("default")))

static char folder[4096];
static pid_t child = -1;
static int out = -1, err = -1;

static void give(value *result, int64_t number) {
    result->type_index = TYPE_INT;
    result->padding = 0;
    result->integer = number;
}

static int find_folder(void) {
    Dl_info info;
    char *slash;
    if (dladdr((void *)(uintptr_t)&child, &info) == 0 || info.dli_fname == NULL ||
        strlen(info.dli_fname) >= sizeof folder) {
        return -1;
    }
    strcpy(folder, info.dli_fname);
    slash = strrchr(folder, '/');
    if (slash == NULL) {
        return -1;
    }
    *slash = '\0';
    return 0;
}

static void path_of(char *path, size_t size, const char *name) {
    (void)snprintf(path, size, "%s/%s", folder, name);
}

static void stop(void) {
    if (child > 0) {
        if (kill(-child, SIGKILL) != 0) {
            (void)kill(child, SIGKILL);
        }
        while (waitpid(child, NULL, 0) < 0 && errno == EINTR) {
        }
        child = -1;
    }
    if (out >= 0) {
        (void)close(out);
        out = -1;
    }
    if (err >= 0) {
        (void)close(err);
        err = -1;
    }
}

/* In the child. */
static void become(char **args, int out_end, int err_end) {
    int null = open("/dev/null", O_RDONLY);
    const char *reason;
    (void)setpgid(0, 0);
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (null >= 0 && dup2(null, 0) >= 0 && dup2(out_end, 1) >= 0 && dup2(err_end, 2) >= 0 &&
        chdir(folder) == 0) {
        int i;
        for (i = 3; i < 256; ++i) {
            (void)close(i);
        }
        (void)signal(SIGPIPE, SIG_DFL);
        (void)execvp(args[0], args);
    }
    reason = strerror(errno);
    (void)!write(2, reason, strlen(reason));
    _exit(errno == ENOENT ? 127 : 126);
}

EXPORT int __tvm_ffi_edgeopt_start(void *self, const value *given, int32_t count, value *result) {
    static char text[MAX_ARGV_BYTES + 1];
    static char *args[MAX_ARGS + 1];
    char path[4200];
    size_t length, at = 0;
    int argc = 0, outs[2], errs[2];
    FILE *file;
    (void)self;
    (void)given;
    (void)count;
    stop();
    give(result, EINVAL);
    if (find_folder() != 0) {
        return 0;
    }
    path_of(path, sizeof path, "edgeopt.argv");
    file = fopen(path, "rb");
    if (file == NULL) {
        return 0;
    }
    length = fread(text, 1, MAX_ARGV_BYTES, file);
    (void)fclose(file);
    text[length] = '\0';
    while (at < length && argc < MAX_ARGS) {
        args[argc++] = text + at;
        at += strlen(text + at) + 1;
    }
    args[argc] = NULL;
    if (argc == 0 || at < length) {
        give(result, E2BIG);
        return 0;
    }
    (void)chmod(folder, 0700);
    (void)setenv("LC_ALL", "C", 1);
    if (pipe2(outs, O_CLOEXEC) != 0) {
        give(result, errno);
        return 0;
    }
    if (pipe2(errs, O_CLOEXEC) != 0) {
        give(result, errno);
        (void)close(outs[0]);
        (void)close(outs[1]);
        return 0;
    }
    child = fork();
    if (child == 0) {
        become(args, outs[1], errs[1]);
    }
    (void)close(outs[1]);
    (void)close(errs[1]);
    out = outs[0];
    err = errs[0];
    give(result, child < 0 ? errno : 0);
    return 0;
}

/* Moves what came from a pipe into a file; 1 if anything did. */
static int move(int *pipe_end, const char *name) {
    static char buffer[CHUNK];
    char path[4200];
    ssize_t got = read(*pipe_end, buffer, sizeof buffer);
    FILE *file;
    size_t written = 0;
    if (got <= 0) {
        if (got == 0 || errno != EINTR) {
            (void)close(*pipe_end);
            *pipe_end = -1;
        }
        return 0;
    }
    path_of(path, sizeof path, name);
    file = fopen(path, "wb");
    if (file != NULL) {
        written = fwrite(buffer, 1, (size_t)got, file);
        (void)fclose(file);
    }
    return written == (size_t)got;
}

/* Waits for at most so many milliseconds. Bit 0: there is output; 1: there are errors; 2: the
 * program ended, then its status is in bits 8 to 15 and the number of its signal in 16 to 23. */
EXPORT int __tvm_ffi_edgeopt_poll(void *self, const value *given, int32_t count, value *result) {
    struct pollfd ends[2];
    int64_t state = 0;
    int limit_ms = count > 0 && given[0].type_index == TYPE_INT ? (int)given[0].integer : 0;
    (void)self;
    if (out >= 0 || err >= 0) {
        ends[0].fd = out;
        ends[1].fd = err;
        ends[0].events = ends[1].events = POLLIN;
        ends[0].revents = ends[1].revents = 0;
        if (poll(ends, 2, limit_ms) > 0) {
            if (out >= 0 && ends[0].revents != 0) {
                state |= move(&out, "edgeopt.out");
            }
            if (err >= 0 && ends[1].revents != 0) {
                state |= move(&err, "edgeopt.err") << 1;
            }
        }
    }
    if (out < 0 && err < 0) {
        int status = 0;
        if (child > 0) {
            while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
            }
            child = -1;
        }
        state |= 4;
        state |= WIFSIGNALED(status) ? (int64_t)WTERMSIG(status) << 16
                                     : (int64_t)WEXITSTATUS(status) << 8;
    }
    give(result, state);
    return 0;
}

EXPORT int __tvm_ffi_edgeopt_stop(void *self, const value *given, int32_t count, value *result) {
    (void)self;
    (void)given;
    (void)count;
    stop();
    give(result, 0);
    return 0;
}

/* Makes the file whose name is in `edgeopt.argv` a program (1) or data (0). */
EXPORT int __tvm_ffi_edgeopt_mode(void *self, const value *given, int32_t count, value *result) {
    char name[256], path[4600], own[4200];
    size_t length = 0;
    FILE *file;
    (void)self;
    give(result, EINVAL);
    if (find_folder() != 0 || count < 1) {
        return 0;
    }
    path_of(own, sizeof own, "edgeopt.argv");
    file = fopen(own, "rb");
    if (file != NULL) {
        length = fread(name, 1, sizeof name - 1, file);
        (void)fclose(file);
    }
    name[length] = '\0';
    path_of(path, sizeof path, name);
    (void)chmod(folder, 0700);
    give(result, chmod(path, given[0].integer != 0 ? 0700 : 0600) == 0 ? 0 : errno);
    return 0;
}
