/* Keeps bionic's place of the stack guard still. An Android library on arm64 reads it at thread pointer + 0x28, where
   glibc puts the first thread-local block: this one, when it is preloaded. Without it the guard could change inside a call. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#ifdef __aarch64__
__thread char guard_pad[64] = {1};

__attribute__((constructor)) static void check(void) {
    uintptr_t place = (uintptr_t)__builtin_thread_pointer() + 0x28, start = (uintptr_t)guard_pad;
    if (place >= start && place + 8 <= start + sizeof guard_pad) return;
    fprintf(stderr, "[abort] the pad for bionic's stack guard is not where it must be: it has to be preloaded first\n");
    abort();
}
#endif
