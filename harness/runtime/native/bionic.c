/* What an Android library asks of bionic, liblog and libandroid and what glibc lacks or lays out otherwise.
   Constants and layouts: bionic's public headers (bits/sysconf.h, stdio.h), LP64. */
#include "bionic.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void shim_abort(const char *what, const char *name) {
    fprintf(stderr, "[abort] %s %s\n", what, name);
    abort();
}

/* ---- errors ---- */

int *BIONIC(__errno)(void) { return &errno; }

extern int __xpg_strerror_r(int, char *, size_t);
int BIONIC(strerror_r)(int error, char *text, size_t size) { return __xpg_strerror_r(error, text, size); }

void BIONIC(android_set_abort_message)(const char *message) { fprintf(stderr, "[abort] %s\n", message); }

/* ---- standard streams: bionic has them in an array of 152-byte structures ---- */

enum { STREAM_BYTES = 152 };
char BIONIC(__sF)[3 * STREAM_BYTES];

/* Standard output carries the worker's answers: what a library prints there goes to standard error. */
static FILE *stream(void *file) {
    char *place = file;
    if (place < BIONIC(__sF) || place >= BIONIC(__sF) + sizeof BIONIC(__sF)) return file;
    return place < BIONIC(__sF) + STREAM_BYTES ? stdin : stderr;
}

int BIONIC(vfprintf)(void *file, const char *format, va_list values) { return vfprintf(stream(file), format, values); }

int BIONIC(fprintf)(void *file, const char *format, ...) {
    va_list values;
    va_start(values, format);
    int written = vfprintf(stream(file), format, values);
    va_end(values);
    return written;
}

int BIONIC(printf)(const char *format, ...) {
    va_list values;
    va_start(values, format);
    int written = vfprintf(stderr, format, values);
    va_end(values);
    return written;
}

int BIONIC(puts)(const char *text) { return fprintf(stderr, "%s\n", text); }
int BIONIC(putchar)(int character) { return fputc(character, stderr); }
int BIONIC(fputc)(int character, void *file) { return fputc(character, stream(file)); }
int BIONIC(fputs)(const char *text, void *file) { return fputs(text, stream(file)); }
int BIONIC(fflush)(void *file) { return fflush(file ? stream(file) : NULL); }
int BIONIC(fclose)(void *file) { return fclose(stream(file)); }
int BIONIC(fileno)(void *file) { return fileno(stream(file)); }
int BIONIC(getc)(void *file) { return getc(stream(file)); }
int BIONIC(ungetc)(int character, void *file) { return ungetc(character, stream(file)); }
size_t BIONIC(fread)(void *to, size_t size, size_t count, void *file) { return fread(to, size, count, stream(file)); }
size_t BIONIC(fwrite)(const void *from, size_t size, size_t count, void *file) {
    return fwrite(from, size, count, stream(file));
}

/* ---- system ---- */

long BIONIC(sysconf)(int name) {
    switch (name) {
    case 0x06: return sysconf(_SC_CLK_TCK);
    case 0x09: return sysconf(_SC_OPEN_MAX);
    case 0x27:
    case 0x28: return sysconf(_SC_PAGESIZE);
    case 0x60: return sysconf(_SC_NPROCESSORS_CONF);
    case 0x61: return sysconf(_SC_NPROCESSORS_ONLN);
    case 0x62: return sysconf(_SC_PHYS_PAGES);
    case 0x63: return sysconf(_SC_AVPHYS_PAGES);
    }
    fprintf(stderr, "[shim] sysconf(%d) is not known\n", name);
    errno = EINVAL;
    return -1;
}

int BIONIC(__system_property_get)(const char *name, char *value) {
    (void)name;
    *value = 0; /* no property is set */
    return 0;
}

int BIONIC(pthread_atfork)(void (*prepare)(void), void (*parent)(void), void (*child)(void)) {
    return pthread_atfork(prepare, parent, child);
}

/* ---- strings and numbers ---- */

size_t BIONIC(__strlen_chk)(const char *text, size_t capacity) {
    size_t length = strlen(text);
    if (length >= capacity) shim_abort("buffer overrun found by", "__strlen_chk");
    return length;
}

/* Android's long double is IEEE binary128 on every 64-bit ABI; glibc's is so on arm64, but 80 bits wide on x86-64. */
#ifdef __x86_64__
typedef __float128 quad;
#else
typedef long double quad;
#endif

double BIONIC(nexttoward)(double from, quad to) {
    return (quad)from == to ? (double)to : nextafter(from, (quad)from < to ? INFINITY : -INFINITY);
}
float BIONIC(nexttowardf)(float from, quad to) {
    return (quad)from == to ? (float)to : nextafterf(from, (quad)from < to ? INFINITY : -INFINITY);
}

/* ---- liblog: one line each on standard error, "[log PRIORITY TAG] text" ---- */

static void log_line(int priority, const char *tag, const char *format, va_list values) {
    flockfile(stderr);
    fprintf(stderr, "[log %d %s] ", priority, tag ? tag : "");
    vfprintf(stderr, format, values);
    fputc('\n', stderr);
    funlockfile(stderr);
}

int BIONIC(__android_log_vprint)(int priority, const char *tag, const char *format, va_list values) {
    log_line(priority, tag, format, values);
    return 1;
}

int BIONIC(__android_log_print)(int priority, const char *tag, const char *format, ...) {
    va_list values;
    va_start(values, format);
    log_line(priority, tag, format, values);
    va_end(values);
    return 1;
}

int BIONIC(__android_log_write)(int priority, const char *tag, const char *text) {
    return fprintf(stderr, "[log %d %s] %s\n", priority, tag ? tag : "", text) < 0 ? -1 : 1;
}

void BIONIC(__android_log_assert)(const char *condition, const char *tag, const char *format, ...) {
    if (format) {
        va_list values;
        va_start(values, format);
        log_line(7, tag, format, values);
        va_end(values);
    }
    shim_abort("assertion failed:", condition ? condition : "(unnamed)");
}

/* ---- libandroid: there are no assets; models are loaded by their path ---- */

void *BIONIC(AAssetManager_fromJava)(void *environment, void *object) { (void)environment, (void)object; return NULL; }
void *BIONIC(AAssetManager_open)(void *manager, const char *name, int mode) {
    (void)manager, (void)name, (void)mode;
    return NULL;
}
void BIONIC(AAsset_close)(void *asset) { (void)asset; }
const void *BIONIC(AAsset_getBuffer)(void *asset) { (void)asset; return NULL; }
long BIONIC(AAsset_getLength)(void *asset) { (void)asset; return 0; }
