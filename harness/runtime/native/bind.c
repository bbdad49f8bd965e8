/* Loads the Android libraries beside it so that each binds to its own C++ library first. A JVM brings GNU's libstdc++ into
   the global scope, which would otherwise answer for exceptions, terminate() and operator new in their place. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const libraries[] = {LIBRARIES};

__attribute__((constructor)) static void bind(void) {
    Dl_info here;
    if (!dladdr((void *)bind, &here)) abort();
    int folder = (int)(strrchr(here.dli_fname, '/') - here.dli_fname);
    for (size_t i = 0; i < sizeof libraries / sizeof *libraries; i++) {
        char path[PATH_MAX];
        snprintf(path, sizeof path, "%.*s/%s", folder, here.dli_fname, libraries[i]);
        if (dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND)) continue;
        fprintf(stderr, "[abort] %s\n", dlerror());
        abort();
    }
}
