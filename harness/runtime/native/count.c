/* qemu plugin: instructions executed by all guest threads. Whenever the guest writes to standard output (the worker's
   answers), the count so far is appended to the file given as out=PATH, before the write is made.
   Declarations: qemu-plugin.h of QEMU, the few that are used; distributions do not ship the header. */
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
enum { CB_NO_REGS = 0 };
typedef void (*translate_fn)(qemu_plugin_id_t, struct qemu_plugin_tb *);
typedef void (*execute_fn)(unsigned int vcpu, void *data);
typedef void (*syscall_fn)(qemu_plugin_id_t, unsigned int vcpu, int64_t number, uint64_t, uint64_t, uint64_t, uint64_t,
                           uint64_t, uint64_t, uint64_t, uint64_t);
extern void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, translate_fn);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, execute_fn, int flags, void *data);
extern void qemu_plugin_register_vcpu_syscall_cb(qemu_plugin_id_t, syscall_fn);

__attribute__((visibility("default"))) int qemu_plugin_version = PLUGIN_VERSION;

enum { THREADS = 4096, AARCH64_WRITE = 64, AARCH64_WRITEV = 66, STANDARD_OUTPUT = 1 };
/* one counter a thread, a cache line apart: no two threads ever add to the same one */
static struct { uint64_t count; char apart[56]; } executed[THREADS];
static int out = -1;

static void execute(unsigned int vcpu, void *instructions) { executed[vcpu % THREADS].count += (uintptr_t)instructions; }

static void translate(qemu_plugin_id_t id, struct qemu_plugin_tb *block) {
    (void)id;
    qemu_plugin_register_vcpu_tb_exec_cb(block, execute, CB_NO_REGS, (void *)(uintptr_t)qemu_plugin_tb_n_insns(block));
}

static void on_syscall(qemu_plugin_id_t id, unsigned int vcpu, int64_t number, uint64_t a1, uint64_t a2, uint64_t a3,
                       uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8) {
    (void)id, (void)a2, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
    if ((number != AARCH64_WRITE && number != AARCH64_WRITEV) || a1 != STANDARD_OUTPUT) return;
    uint64_t total = 0;
    for (int i = 0; i < THREADS; i++) total += executed[i].count;
    char line[64];
    int length = snprintf(line, sizeof line, "%llu %llu\n", (unsigned long long)total,
                          (unsigned long long)executed[vcpu % THREADS].count);
    if (write(out, line, (size_t)length) != length) _exit(97);
}

__attribute__((visibility("default"))) int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc, char **argv) {
    (void)info;
    for (int i = 0; i < argc; i++)
        if (!strncmp(argv[i], "out=", 4)) out = open(argv[i] + 4, O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (out < 0) return -1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translate);
    qemu_plugin_register_vcpu_syscall_cb(id, on_syscall);
    return 0;
}
