/* What bionic.c and threads.c share. BIONIC(name) defines what an Android library knows as name; shim.py finds these
   definitions and exports them as name@LIBC. Inside, every function has a name of its own, so that glibc's stays reachable. */
#ifndef BIONIC_H
#define BIONIC_H

#define _GNU_SOURCE
#define BIONIC(name) bionic_##name

/* Ends the process with a line that names the cause; the worker's reader reports it. */
__attribute__((noreturn, visibility("hidden"))) void shim_abort(const char *what, const char *name);

#endif
